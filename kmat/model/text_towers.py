"""How open_clip's two kinds of text tower take embeddings instead of token ids.

open_clip has no ``inputs_embeds`` argument, so each class below repeats the few lines of the tower's own forward pass
that follow the embedding. Both are tested to equal ``encode_text``.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kmat.errors import UserError


class TextTower(Protocol):
    """Token ids to word embeddings, and word embeddings to a feature per text."""

    width: int

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings (N, T, width) of ids (N, T), without positions."""

    def encode(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Projected features (N, D); ``ids`` tell padding and pooling positions."""

    def lengths(self, ids: Tensor) -> Tensor:
        """Number of tokens before the padding, special tokens included: shape (N,)."""


class HFText:
    """A Hugging Face encoder (BiomedCLIP's BERT) with open_clip's pooler and projection."""

    def __init__(self, text: Any) -> None:
        self._text = text
        self._words: nn.Embedding = text.transformer.get_input_embeddings()
        self.width: int = self._words.embedding_dim

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings without positions."""
        embeddings: Tensor = self._words(ids)
        return embeddings

    def encode(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Run the tower from its word embeddings on."""
        mask = (ids != self._text.config.pad_token_id).long()
        hidden = self._text.transformer(inputs_embeds=embeddings, attention_mask=mask)
        features: Tensor = self._text.proj(self._text.pooler(hidden, mask))
        return features

    def lengths(self, ids: Tensor) -> Tensor:
        """Count what is not padding."""
        padding: int = self._text.config.pad_token_id
        return (ids != padding).sum(dim=1)


class NativeText:
    """open_clip's own causal transformer, pooled at the end-of-text token.

    Causal attention never looks at what follows the end of the text, so padding can be cut.
    """

    def __init__(self, text: Any, attention_mask: Tensor, eot_id: int) -> None:
        self._text = text
        self._mask = attention_mask
        self._eot_id = eot_id
        self.width: int = text.token_embedding.embedding_dim

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings without positions."""
        embeddings: Tensor = self._text.token_embedding(ids)
        return embeddings

    def encode(self, embeddings: Tensor, ids: Tensor) -> Tensor:
        """Run the tower from its word embeddings on."""
        text, length = self._text, ids.shape[1]
        hidden = text.transformer(
            embeddings + text.positional_embedding[:length], attn_mask=self._mask[:length, :length]
        )
        last = self.lengths(ids) - 1
        pooled: Tensor = text.ln_final(hidden)[torch.arange(len(ids), device=ids.device), last]
        if text.text_projection is None:
            return pooled
        projected: Tensor = (
            text.text_projection(pooled)
            if isinstance(text.text_projection, nn.Linear)
            else pooled @ text.text_projection
        )
        return projected

    def lengths(self, ids: Tensor) -> Tensor:
        """Count up to the end-of-text token: padding may share an id with a word."""
        return (ids == self._eot_id).int().argmax(dim=1) + 1


def text_tower(model: Any, tokenizer: Any) -> TextTower:
    """Pick the adapter for an open_clip model.

    Raises
    ------
    UserError
        If the text tower is of another kind (SigLIP's and CoCa's pool elsewhere and see their padding).
    """
    text = getattr(model, "text", model)
    if hasattr(text, "pooler") and hasattr(text, "proj"):
        return HFText(text)
    # A plain CLIP keeps its text tower's parts, and the pooling type under another name, on the model itself.
    pool_type = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    causal = isinstance(getattr(text, "attn_mask", None), Tensor)
    if not (causal and pool_type in ("argmax", "eos") and getattr(text, "cls_emb", None) is None):
        raise UserError(f"{type(model).__name__} with text pooling {pool_type!r} is not supported")
    eot_id = getattr(tokenizer, "eot_token_id", None)
    if eot_id is None:
        eot_id = tokenizer.tokenizer.eos_token_id
    return NativeText(text, text.attn_mask, eot_id)

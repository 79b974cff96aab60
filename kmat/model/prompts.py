"""Learned context vectors: shared, class-specific (CSC), modality-specific (MSC), or both."""

import torch
from torch import Tensor, nn

from kmat.errors import UserError
from kmat.modalities import MODALITIES
from kmat.model.backbone import Backbone

INIT_STD = 0.02  # CoOp's; the K-MaT paper says only "randomly initialised"


class Contexts(nn.Module):
    r"""The context vectors :math:`v_1 \dots v_{n}` of every prompt :math:`t_{i,m}`.

    One parameter per modality, or one for both, of shape ``(C or 1 classes, n_ctx, width)``: a single class is shared.

    Parameters
    ----------
    n_classes, n_ctx, width : int
        Classes, context vectors per prompt, and the width of a word embedding.
    csc : bool
        One set per class.
    msc : bool
        One set per modality.
    seed : int
        Of the random start, N(0, 0.02^2).
    same_start : bool
        Start the low-end set at the same values as the high-end set.
    start : Tensor, shape (n_ctx, width), optional
        Start every set here instead.

    Examples
    --------
    >>> contexts = Contexts(n_classes=3, n_ctx=4, width=8, csc=True, msc=False, seed=0)
    >>> len(contexts.vectors), tuple(contexts("low").shape)
    (1, (3, 4, 8))
    """

    def __init__(
        self,
        n_classes: int,
        n_ctx: int,
        width: int,
        *,
        csc: bool,
        msc: bool,
        seed: int,
        same_start: bool = False,
        start: Tensor | None = None,
    ) -> None:
        super().__init__()
        shape = (len(MODALITIES) if msc else 1, n_classes if csc else 1, n_ctx, width)
        if start is None:
            vectors = INIT_STD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            if same_start:
                vectors = vectors[:1].expand(shape)
        else:
            vectors = start.expand(shape)
        self.n_classes = n_classes
        self.vectors = nn.ParameterList([each.clone(memory_format=torch.contiguous_format) for each in vectors])

    def forward(self, modality: str) -> Tensor:
        """Context vectors of one modality, shape (C, n_ctx, width)."""
        index = MODALITIES.index(modality) if len(self.vectors) > 1 else 0
        vectors: Tensor = self.vectors[index]
        return vectors.expand(self.n_classes, -1, -1)


def start_from_words(backbone: Backbone, words: str, n_ctx: int) -> Tensor:
    """Word embeddings of ``words`` as starting context, counted in word pieces.

    Raises
    ------
    UserError
        If ``words`` has another number of pieces than there are context vectors.
    """
    vectors = backbone.word_vectors(words)
    if len(vectors) != n_ctx:
        raise UserError(f"{words!r} has {len(vectors)} word pieces in {backbone.name}, but there are {n_ctx} contexts")
    return vectors

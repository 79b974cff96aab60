"""CoCoOp (Zhou et al., CVPR 2022, arXiv 2203.05557): context that depends on the image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kmat.methods.base import Batch, Method, PromptLearner, Setting
from kmat.modalities import HIGH
from kmat.model.backbone import PromptFrame
from kmat.options import check

HIDDEN = 32  # of the meta-net, as published: a sixteenth of CLIP's 512
CHUNK = 32  # images whose prompts are encoded at once


@dataclass(frozen=True)
class CoCoOpConfig:
    """Learn shared context vectors, and a network that shifts them for each image, by cross-entropy on the high end.

    Each image has prompts of its own, to be encoded in training and ever after: by far the slowest method.
    """

    n_ctx: int = 4
    """Context vectors per prompt."""
    init_words: str | None = "a photo of a"
    """Start from the embeddings of these words; None is at random, N(0, 0.02^2)."""
    prompt: str = "{name}."
    """What follows the context vectors; {name} is the class, {modality} the modality."""

    def __post_init__(self) -> None:
        check(1, n_ctx=self.n_ctx)

    def build(self, setting: Setting) -> Method:
        """Set up the prompts and the network."""
        return CoCoOp(self, setting)


class CoCoOp(PromptLearner):
    """See :class:`CoCoOpConfig`."""

    image_conditional = True

    def __init__(self, config: CoCoOpConfig, setting: Setting) -> None:
        super().__init__(
            setting, n_ctx=config.n_ctx, csc=False, msc=False, prompt=config.prompt, init_words=config.init_words
        )
        backbone = setting.backbone
        width = backbone.encode_texts(setting.task.classes[:1]).shape[1]
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(setting.seed)
            self.meta_net = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, backbone.token_dim))

    def text_features(self, modality: str) -> Tensor:
        """There are none without an image."""
        raise NotImplementedError("CoCoOp's text features depend on the image: see conditional_text_features")

    def conditional_text_features(self, images: Tensor, modality: str) -> Tensor:
        r"""Unit text features (B, C, D) of each image's own prompts.

        .. math:: t_i(x) = [v_1 + \pi(x), \dots, v_n + \pi(x), \mathrm{class}_i], \quad
                  \pi(x) = W_2 \max(0, W_1 x + b_1) + b_2

        with :math:`x` the unit image feature. All B times C prompts are encoded as one batch.
        """
        shifts = self.meta_net(images)[:, None, None]
        contexts = (self.own_contexts(modality) + shifts).flatten(0, 1)
        frame = self.frame((modality,))
        frame = PromptFrame(frame.ids.repeat(len(images), 1), frame.embeddings.repeat(len(images), 1, 1), frame.n_ctx)
        features = self.backbone.encode_context(contexts, frame).view(len(images), len(frame.ids) // len(images), -1)
        return F.normalize(features, dim=-1)

    def logits(self, images: Tensor, modality: str) -> Tensor:
        """Scores (B, C) of unit image features (B, D), each against its own prompts."""
        chunks = [
            torch.einsum("bd,bcd->bc", chunk, self.conditional_text_features(chunk, modality))
            for chunk in images.split(CHUNK)
        ]
        return self.backbone.logit_scale * torch.cat(chunks)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy alone."""
        return {"ce": F.cross_entropy(self.logits(batch.images, HIGH), batch.labels)}

"""CoCoOp (Zhou et al., CVPR 2022, arXiv 2203.05557): context that depends on the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kmat.methods.base import Batch, PromptLearner, Setting
from kmat.methods.configs import CoCoOpConfig
from kmat.modalities import HIGH
from kmat.model.backbone import PromptFrame

HIDDEN = 32  # of the meta-net, as published: a sixteenth of CLIP's 512
CHUNK = 32  # images whose prompts are encoded at once


class CoCoOp(PromptLearner):
    """See :class:`~kmat.methods.configs.CoCoOpConfig`."""

    image_conditional = True

    def __init__(self, config: CoCoOpConfig, setting: Setting) -> None:
        super().__init__(config, setting)
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

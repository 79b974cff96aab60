"""KgCoOp (Yao, Zhang and Xu, CVPR 2023, arXiv 2303.13283): CoOp that stays close to a hand-written template."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from kmat.methods.base import Batch, PromptLearner, Setting, prototypes, template_sentences
from kmat.methods.configs import KgCoOpConfig
from kmat.methods.losses import template_loss
from kmat.modalities import HIGH, MODALITIES


class KgCoOp(PromptLearner):
    """See :class:`~kmat.methods.configs.KgCoOpConfig`."""

    template: Tensor

    def __init__(self, config: KgCoOpConfig, setting: Setting) -> None:
        super().__init__(config, setting, csc=config.csc)
        self.weight = config.weight
        sentences = template_sentences(setting.task, config.template)
        features = prototypes(setting, sentences, normalise=True, renormalise=True)
        self.register_buffer("template", features[MODALITIES.index(HIGH)], persistent=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy and the weighted distance from the template."""
        w = F.normalize(self.encode((HIGH,))[0], dim=-1)
        return {"ce": self.cross_entropy(batch, w), "kg": self.weight * template_loss(w, self.template)}

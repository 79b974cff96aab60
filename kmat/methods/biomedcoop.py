"""BiomedCoOp (Koleilat et al., CVPR 2025, arXiv 2411.15232): CoOp taught by the class descriptions."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from kmat.errors import UserError
from kmat.methods.base import Batch, PromptLearner, Setting, required_descriptions
from kmat.methods.configs import BiomedCoOpConfig
from kmat.methods.losses import distillation_loss, typical
from kmat.modalities import HIGH


class BiomedCoOp(PromptLearner):
    """See :class:`~kmat.methods.configs.BiomedCoOpConfig`."""

    descriptions: Tensor

    def __init__(self, config: BiomedCoOpConfig, setting: Setting) -> None:
        super().__init__(config, setting, csc=config.csc)
        self.config = config
        sentences = required_descriptions(setting.task, "BiomedCoOp")[HIGH]
        if len({len(texts) for texts in sentences}) > 1:
            raise UserError(
                "BiomedCoOp keeps or drops the j-th description of all classes together: it needs equally many per "
                f"class, not {', '.join(str(len(texts)) for texts in sentences)}"
            )
        features = torch.stack([setting.cache.texts(setting.backbone, texts) for texts in sentences])
        self.register_buffer("descriptions", F.normalize(features, dim=-1), persistent=False)  # (C, J, D)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        r"""Cross-entropy, and the weighted terms of both kinds of prototypes.

        .. math:: L_{sccm} = \frac{1}{N_c D} \sum_i \lVert w_i - \bar f_i \rVert^2, \quad
                  L_{kdsp} = \frac{1}{B N_c} \sum_b \mathrm{KL}(p^{sel}_b \,\Vert\, p_b)

        with :math:`\bar f_i` the renormalised mean of all unit description features of a class, and
        :math:`p^{sel}_b` the prediction by the means of the selected ones only (:func:`~kmat.methods.losses.typical`).
        """
        config, scale = self.config, self.backbone.logit_scale
        w = F.normalize(self.encode((HIGH,))[0], dim=-1)
        kept = typical(description_scores(batch.images, self.descriptions), config.tau)
        teacher = F.normalize(self.descriptions[:, kept].mean(dim=1), dim=-1)
        return {
            "ce": self.cross_entropy(batch, w),
            "sccm": config.lambda_s * F.mse_loss(w, F.normalize(self.descriptions.mean(dim=1), dim=-1)),
            "kdsp": config.lambda_k * distillation_loss(scale * batch.images @ w.T, scale * batch.images @ teacher.T),
        }


def description_scores(images: Tensor, descriptions: Tensor) -> Tensor:
    """Score s_j of the j-th description of all classes (C, J, D): mean over the images of the best class's cosine.

    The published score has the temperature in it, which the selection does not see.
    """
    return torch.einsum("bd,cjd->bjc", images, descriptions).amax(dim=2).mean(dim=0)

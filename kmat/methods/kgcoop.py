"""KgCoOp (Yao, Zhang and Xu, CVPR 2023, arXiv 2303.13283): CoOp that stays close to a hand-written template."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from kmat.methods.base import Batch, Method, PromptLearner, Setting, prototypes, template_sentences
from kmat.methods.losses import template_loss
from kmat.modalities import HIGH, MODALITIES
from kmat.options import check


@dataclass(frozen=True)
class KgCoOpConfig:
    """Learn context vectors by L = L_ce + weight L_kg; the same prompts classify the low end."""

    weight: float = 8.0
    """Weight of L_kg (KgCoOp's script, and BiomedCoOp's base-to-new runs; its few-shot runs: 1 to 10 by data set)."""
    template: str = "a photo of a {name}."
    """The sentence to stay close to; {name} is the class, {modality} the modality. BiomedCoOp's for every data set."""
    n_ctx: int = 4
    """Context vectors per prompt."""
    csc: bool = False
    """Class-specific context: one set per class instead of one shared by all."""
    init_words: str | None = "a photo of a"
    """Start from the embeddings of these words; None is at random, N(0, 0.02^2)."""
    prompt: str = "{name}."
    """What follows the context vectors; {name} is the class, {modality} the modality."""

    def __post_init__(self) -> None:
        check(1, n_ctx=self.n_ctx)

    def build(self, setting: Setting) -> Method:
        """Set up the prompts and the template's features."""
        return KgCoOp(self, setting)


class KgCoOp(PromptLearner):
    """See :class:`KgCoOpConfig`."""

    template: Tensor

    def __init__(self, config: KgCoOpConfig, setting: Setting) -> None:
        super().__init__(
            setting,
            n_ctx=config.n_ctx,
            csc=config.csc,
            msc=False,
            prompt=config.prompt,
            init_words=config.init_words,
        )
        self.weight = config.weight
        sentences = template_sentences(setting.task, config.template)
        features = prototypes(setting, sentences, normalise=True, renormalise=True)
        self.register_buffer("template", features[MODALITIES.index(HIGH)], persistent=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy and the weighted distance from the template."""
        w = F.normalize(self.encode((HIGH,))[0], dim=-1)
        return {"ce": self.cross_entropy(batch, w), "kg": self.weight * template_loss(w, self.template)}

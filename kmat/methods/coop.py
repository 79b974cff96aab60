"""CoOp (Zhou et al., 2022): learned context, cross-entropy only."""

from dataclasses import dataclass

from kmat.methods.base import Method, PromptLearner, Setting
from kmat.options import check


@dataclass(frozen=True)
class CoOpConfig:
    """Learn context vectors by cross-entropy on the high-end images; the same prompts classify the low end."""

    n_ctx: int = 4
    """Context vectors per prompt."""
    csc: bool = False
    """Class-specific context: one set per class instead of one shared by all."""
    init_words: str | None = None
    """Start from the embeddings of these words, as many word pieces as contexts; else at random, N(0, 0.02^2)."""
    prompt: str = "{name}."
    """What follows the context vectors; {name} is the class, {modality} the modality."""

    def __post_init__(self) -> None:
        check(1, n_ctx=self.n_ctx)

    def build(self, setting: Setting) -> Method:
        """Set up the prompts."""
        return PromptLearner(
            setting, n_ctx=self.n_ctx, csc=self.csc, msc=False, prompt=self.prompt, init_words=self.init_words
        )

"""The methods' options: what a run is configured by, and what help shows. Nothing here needs torch.

What is learned, and how, stands in a module of its own for each, which is imported when a method is set up.
"""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, ClassVar, Literal

from kmat.errors import UserError
from kmat.options import check

if TYPE_CHECKING:
    from kmat.methods.base import Method, Setting

WORDS = "a photo of a"
"""What BiomedCoOp's repository starts every baseline from."""

TEMPLATE = "a photo of a {name}."
"""BiomedCoOp's for every data set."""


@dataclass(frozen=True)
class Config:
    """What every method's options have in common: nothing but how the method is found.

    Attributes
    ----------
    name : str
        On the command line, in folders and files.
    method : str
        Where its class is, MODULE:CLASS, which takes the options and a :class:`kmat.methods.base.Setting`.
    """

    name: ClassVar[str]
    method: ClassVar[str]

    def build(self, setting: "Setting") -> "Method":
        """Set up the method."""
        method: Method = resolve_name(self.method)(self, setting)
        return method


@dataclass(frozen=True)
class ZeroShotConfig(Config):
    """Classify by the text features of a template or of the class descriptions."""

    name: ClassVar[str] = "zero-shot"
    method: ClassVar[str] = "kmat.methods.zero_shot:ZeroShot"

    text: Literal["template", "descriptions"] = "template"
    """One sentence per class, or the mean of its descriptions' unit features, renormalised."""
    template: str = TEMPLATE
    """The sentence; {name} is the class, {modality} the modality. The default is BiomedCoOp's for every data set."""


@dataclass(frozen=True)
class PromptConfig(Config):
    """Options of whatever learns context vectors."""

    n_ctx: int = 4
    """Context vectors per prompt."""
    init_words: str | None = None
    """Start from the embeddings of these words, as many word pieces as contexts; None is at random, N(0, 0.02^2)."""
    prompt: str = "{name}."
    """What follows the context vectors; {name} is the class, {modality} the modality."""

    def __post_init__(self) -> None:
        check(1, n_ctx=self.n_ctx)


@dataclass(frozen=True)
class ClassPromptConfig(PromptConfig):
    """Options of whatever may learn them by class."""

    csc: bool = False
    """Class-specific context: one set per class instead of one shared by all."""


@dataclass(frozen=True)
class CoOpConfig(ClassPromptConfig):
    """Learn context vectors by cross-entropy on the high-end images; the same prompts classify the low end."""

    name: ClassVar[str] = "coop"
    method: ClassVar[str] = "kmat.methods.coop:CoOp"


@dataclass(frozen=True)
class CoCoOpConfig(PromptConfig):
    """Learn shared context vectors, and a network that shifts them for each image, by cross-entropy on the high end.

    Each image has prompts of its own, to be encoded in training and ever after: by far the slowest method.
    """

    name: ClassVar[str] = "cocoop"
    method: ClassVar[str] = "kmat.methods.cocoop:CoCoOp"

    init_words: str | None = WORDS


@dataclass(frozen=True)
class KgCoOpConfig(ClassPromptConfig):
    """Learn context vectors by L = L_ce + weight L_kg; the same prompts classify the low end."""

    name: ClassVar[str] = "kgcoop"
    method: ClassVar[str] = "kmat.methods.kgcoop:KgCoOp"

    init_words: str | None = WORDS
    weight: float = 8.0
    """Weight of L_kg (KgCoOp's script, and BiomedCoOp's base-to-new runs; its few-shot runs: 1 to 10 by data set)."""
    template: str = TEMPLATE
    """The sentence to stay close to; {name} is the class, {modality} the modality. BiomedCoOp's for every data set."""


@dataclass(frozen=True)
class BiomedCoOpConfig(ClassPromptConfig):
    """Learn context vectors by L = L_ce + lambda_s L_sccm + lambda_k L_kdsp, taught by the high end's descriptions.

    The published runs have weights and tau of their own for each data set; the defaults are those of the code.
    """

    name: ClassVar[str] = "biomedcoop"
    method: ClassVar[str] = "kmat.methods.biomedcoop:BiomedCoOp"

    init_words: str | None = WORDS
    lambda_s: float = 1.0
    """Weight of L_sccm, the distance from the descriptions' means."""
    lambda_k: float = 1.0
    """Weight of L_kdsp, the distillation from the descriptions that are typical for the batch."""
    tau: float = 1.5
    """Standard deviations from the mean score up to which a description is typical."""


@dataclass(frozen=True)
class KMaTConfig(ClassPromptConfig):
    """Learn context vectors by L = L_ce + lambda_anc L_anc + lambda_fgw L_fgw, from high-end images and text alone.

    The four switches of the paper's Table 3 are csc, msc, and the two lambdas, 0 being off.
    """

    name: ClassVar[str] = "kmat"
    method: ClassVar[str] = "kmat.methods.kmat:KMaT"

    csc: bool = True
    msc: bool = True
    """Modality-specific context: one set for the high end and one for the low end."""
    lambda_anc: float = 10.0
    """Weight of the anchor. The paper gives no value; it tunes on high-end validation images."""
    lambda_fgw: float = 1.0
    """Weight of FGW. The paper gives no value, and its tuning rule cannot find one: with the high end detached and
    msc on, high-end predictions do not depend on it."""
    low_start: Literal["random", "same", "high", "anchor"] = "random"
    """Where the low-end context starts: at random as in the paper; at the high-end one's random start (same); at the
    high-end one once that is trained, so that the schedule runs twice, first for the high end, then for the low (high);
    or where its text features are fitted to their descriptions (anchor). All but random are ours."""
    normalise: bool = True
    """Bring text features to unit length in L_anc and L_fgw. The paper does not say; raw lengths would change what
    the lambdas and epsilon mean."""
    renormalise_prototypes: bool = False
    """Bring the descriptions' mean to unit length. The paper writes a plain mean; BiomedCoOp renormalises."""
    alpha: float = 0.1
    """Weight of the Gromov-Wasserstein term, 1 - alpha of the Wasserstein term (paper)."""
    epsilon: float = 0.1
    """Entropy of the coupling: the paper's "temperature 0.1" of its Sinkhorn-Knopp."""
    fgw_value: Literal["cost", "value"] = "cost"
    """Differentiate the printed formula with the coupling held fixed, or the entropic objective, whose envelope
    gradient is the same but whose value includes the entropy. The paper prints the former."""
    fgw_unit: Literal["one", "discrepancy"] = "one"
    """What lambda_fgw is a multiple of: one, or the weight at which FGW moves the low end as far from its anchor as
    the descriptions leave that uncertain (ours; needs no image and no label of the low end)."""
    coupling: Literal["entropic", "proximal", "diagonal"] = "entropic"
    """Solver: entropic (blurred, the paper's "Sinkhorn") or proximal point (sharp, epsilon is only its step). Diagonal
    solves nothing and sends each class to itself: a control that knows what the other two have to find."""
    warm_start: bool = True
    """Start each step's coupling from the last one's. The paper does not say."""
    detach_high: bool = True
    """Let FGW move the low-end prompts only (paper)."""
    max_iter: int = 100
    """Outer iterations of the coupling; the paper's "max 100" does not name the loop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(1, max_iter=self.max_iter)
        check(0, lambda_anc=self.lambda_anc, lambda_fgw=self.lambda_fgw)
        check(0, 1, alpha=self.alpha)
        check(1e-6, epsilon=self.epsilon)
        if self.low_start in ("high", "anchor") and not self.msc:
            raise UserError(f"--low-start {self.low_start}: without --msc the low end has no context of its own")
        if self.low_start == "high" and not (self.detach_high and (self.lambda_anc or self.lambda_fgw)):
            raise UserError("--low-start high: the low end learns by itself, with --detach-high and the anchor or FGW")
        if self.low_start == "anchor" and not self.lambda_anc:
            raise UserError("--low-start anchor: there is none with --lambda-anc 0")
        if self.fgw_unit == "discrepancy" and not self.lambda_anc:
            raise UserError("--fgw-unit discrepancy weighs FGW against the anchor: there is none with --lambda-anc 0")


@dataclass(frozen=True)
class ResidualConfig(ClassPromptConfig):
    """Learn the high end as K-MaT does, by L = L_ce + lambda_anc L_anc; the low end follows from it by one coupling.

    To each low-end class's descriptions is added how far the high end has moved from its own descriptions, averaged
    over the high-end classes that FGW couples it with, be they the same classes or not. Ours, not the paper's; nothing
    of the low end is trained.
    """

    name: ClassVar[str] = "residual"
    method: ClassVar[str] = "kmat.methods.residual:ResidualTransport"

    csc: bool = True
    lambda_anc: float = 10.0
    """Weight of the anchor as in K-MaT; 0 leaves the high end to class-specific CoOp."""
    scale: float = 1.0
    """How much of the residuals is added; 0 leaves the low end to its descriptions."""
    alpha: float = 0.1
    """Weight of the coupling's Gromov-Wasserstein term, 1 - alpha of the Wasserstein term (the paper's)."""
    epsilon: float = 0.1
    """Entropy of the coupling (the paper's). A small one carries residuals class by class, a large one their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0, lambda_anc=self.lambda_anc, scale=self.scale)
        check(0, 1, alpha=self.alpha)
        check(1e-6, epsilon=self.epsilon)

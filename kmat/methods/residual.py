"""Transported residuals: what the high end learns of its classes from images, carried to the low end by text."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import fgwot
from kmat.console import note
from kmat.methods.base import Batch, Method, PromptLearner, Setting, prototypes, required_descriptions
from kmat.methods.losses import anchor_loss, geometry
from kmat.modalities import HIGH, MODALITIES
from kmat.options import check


@dataclass(frozen=True)
class ResidualConfig:
    """Learn the high end as K-MaT does, by L = L_ce + lambda_anc L_anc; the low end follows from it by one coupling.

    To each low-end class's descriptions is added how far the high end has moved from its own descriptions, averaged
    over the high-end classes that FGW couples it with, be they the same classes or not. Ours, not the paper's; nothing
    of the low end is trained.
    """

    lambda_anc: float = 10.0
    """Weight of the anchor as in K-MaT; 0 leaves the high end to class-specific CoOp."""
    scale: float = 1.0
    """How much of the residuals is added; 0 leaves the low end to its descriptions."""
    alpha: float = 0.1
    """Weight of the coupling's Gromov-Wasserstein term, 1 - alpha of the Wasserstein term (the paper's)."""
    epsilon: float = 0.1
    """Entropy of the coupling (the paper's). A small one carries residuals class by class, a large one their mean."""
    n_ctx: int = 4
    """Context vectors per prompt."""
    csc: bool = True
    """Class-specific context: one set per class."""
    init_words: str | None = None
    """Start from the embeddings of these words; else at random, N(0, 0.02^2)."""
    prompt: str = "{name}."
    """What follows the context vectors; {name} is the class, {modality} the modality."""

    def __post_init__(self) -> None:
        check(1, n_ctx=self.n_ctx)
        check(0, lambda_anc=self.lambda_anc, scale=self.scale)
        check(0, 1, alpha=self.alpha)
        check(1e-6, epsilon=self.epsilon)

    def build(self, setting: Setting) -> Method:
        """Set up the prompts, and solve for the coupling of the descriptions."""
        return ResidualTransport(self, setting)


class ResidualTransport(PromptLearner):
    """See :class:`ResidualConfig`."""

    described_high: Tensor
    described_low: Tensor
    coupling: Tensor

    def __init__(self, config: ResidualConfig, setting: Setting) -> None:
        # With one set of contexts, the high end's, which starts where the first of K-MaT's two does.
        super().__init__(
            setting,
            n_ctx=config.n_ctx,
            csc=config.csc,
            msc=False,
            prompt=config.prompt,
            init_words=config.init_words,
            both_ends=False,
        )
        self.config = config
        sentences = required_descriptions(setting.task, "Residual transport")
        high, low = prototypes(setting, sentences, normalise=True, renormalise=False)
        # Kept with the run, which can then be taken apart without its backbone.
        self.register_buffer("described_high", high)
        self.register_buffer("described_low", low)
        high, low = F.normalize(high, dim=-1), F.normalize(low, dim=-1)
        self.register_buffer("coupling", couple(high, low, config.alpha, config.epsilon))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, and the high end's part of K-MaT's anchor, which is a mean over both ends."""
        w = F.normalize(self.encode((HIGH,)), dim=-1)
        losses = {"ce": self.cross_entropy(batch, w[0])}
        if self.config.lambda_anc:
            losses["anc"] = self.config.lambda_anc * anchor_loss(w, self.described_high[None]) / len(MODALITIES)
        return losses

    def text_features(self, modality: str) -> Tensor:
        """Unit text features, shape (C, D): of the prompts at the high end, by transport at the low end."""
        high = super().text_features(HIGH)
        if modality == HIGH:
            return high
        residuals = high - F.normalize(self.described_high, dim=-1)
        return transport(residuals, F.normalize(self.described_low, dim=-1), self.coupling, self.config.scale)


def couple(high: Tensor, low: Tensor, alpha: float, epsilon: float) -> Tensor:
    """FGW coupling (n, m) of two sets of unit features (n, D) and (m, D), with uniform marginals, in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)  # said in a line instead
        solution = fgwot.fused_gromov_wasserstein(
            *geometry(high.to(torch.float64), low.to(torch.float64)), alpha=alpha, epsilon=epsilon
        )
    if not solution.converged:
        note(f"the coupling of the descriptions did not converge, residual {float(solution.residual):.1e}")
    return solution.plan


def transport(residuals: Tensor, low: Tensor, coupling: Tensor, scale: float) -> Tensor:
    r"""Move the low end's descriptions by residuals of the high end.

    .. math:: w_{j,L} \propto \bar p_{j,L} + s \sum_i \frac{T_{ij}}{q_j} (w_{i,H} - \bar p_{i,H}), \qquad
              q_j = \sum_i T_{ij}

    Parameters
    ----------
    residuals : Tensor, shape (n, D)
        Of the high end.
    low : Tensor, shape (m, D)
        Unit features of the low end's descriptions.
    coupling : Tensor, shape (n, m)
        T.
    scale : float
        s.

    Returns
    -------
    Tensor, shape (m, D)
        Of unit length.

    Examples
    --------
    >>> east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> transport(north - east, east, torch.ones(1, 1), scale=1).tolist()
    [[0.0, 1.0]]
    """
    shares = (coupling / coupling.sum(dim=0)).to(residuals.dtype)
    return F.normalize(low + scale * shares.T @ residuals, dim=-1)

"""Transported residuals: what the high end learns of its classes from images, carried to the low end by text."""

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import fgwot
from kmat.console import note
from kmat.methods.base import Batch, PromptLearner, Setting, prototypes, required_descriptions
from kmat.methods.configs import ResidualConfig
from kmat.methods.losses import anchor_loss, geometry
from kmat.modalities import HIGH, MODALITIES


class ResidualTransport(PromptLearner):
    """See :class:`~kmat.methods.configs.ResidualConfig`."""

    described_high: Tensor
    described_low: Tensor
    coupling: Tensor

    def __init__(self, config: ResidualConfig, setting: Setting) -> None:
        # With one set of contexts, the high end's, which starts where the first of K-MaT's two does.
        super().__init__(config, setting, csc=config.csc, both_ends=False)
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

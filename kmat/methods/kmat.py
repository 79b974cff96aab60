"""K-MaT (Zeng and Albarqouni, arXiv 2603.06340): prompts per class and modality, anchored in text, joined by FGW."""

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import fgwot
from kmat.errors import UserError
from kmat.methods.base import Batch, Method, PromptLearner, Setting, prototypes
from kmat.methods.losses import anchor_loss, distances, squared_distances
from kmat.prompts import MODALITIES


@dataclass(frozen=True)
class KMaTConfig:
    """Learn context vectors by L = L_ce + lambda_anc L_anc + lambda_fgw L_fgw, from high-end images and text alone.

    The four switches of the paper's Table 3 are csc, msc, and the two lambdas, 0 being off.
    """

    csc: bool = True
    """Class-specific context: one set per class."""
    msc: bool = True
    """Modality-specific context: one set for the high end and one for the low end."""
    lambda_anc: float = 10.0
    """Weight of the anchor. The paper gives no value; it tunes on high-end validation images."""
    lambda_fgw: float = 1.0
    """Weight of FGW. The paper gives no value, and its tuning rule cannot find one: with the high end detached and
    msc on, high-end predictions do not depend on it."""
    n_ctx: int = 4
    """Context vectors per prompt."""
    init_words: str | None = None
    """Start from the embeddings of these words; else at random as in the paper, N(0, 0.02^2) (its std is not given)."""
    same_start: bool = False
    """Start the low-end context at the high-end one's values. The paper does not say; independent by default."""
    prompt: str = "{name}."
    """What follows the context vectors. The paper's formula has the class only; {modality} can be named here too."""
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
    coupling: Literal["entropic", "proximal"] = "entropic"
    """Solver: entropic (blurred, the paper's "Sinkhorn") or proximal point (sharp, epsilon is only its step)."""
    warm_start: bool = True
    """Start each step's coupling from the last one's. The paper does not say."""
    detach_high: bool = True
    """Let FGW move the low-end prompts only (paper)."""
    max_iter: int = 100
    """Outer iterations of the coupling; the paper's "max 100" does not name the loop."""

    def build(self, setting: Setting) -> Method:
        """Set up prompts, prototypes and the coupling."""
        return KMaT(self, setting)


class KMaT(PromptLearner):
    """See :class:`KMaTConfig`."""

    prototypes: Tensor
    fgw: fgwot.FGWLoss

    def __init__(self, config: KMaTConfig, setting: Setting) -> None:
        super().__init__(
            setting,
            n_ctx=config.n_ctx,
            csc=config.csc,
            msc=config.msc,
            prompt=config.prompt,
            init_words=config.init_words,
            same_start=config.same_start,
        )
        self.config = config
        if config.lambda_anc:
            sentences = setting.task.descriptions
            if sentences is None:
                raise UserError(
                    f"K-MaT's anchor needs descriptions of {setting.task.name}'s classes: "
                    "give them with --descriptions FILE, or switch the anchor off with --lambda-anc 0"
                )
            means = prototypes(
                setting, sentences, normalise=config.normalise, renormalise=config.renormalise_prototypes
            )
            self.register_buffer("prototypes", means, persistent=False)
        self._unconverged = 0
        if config.lambda_fgw:
            self.fgw = _fgw(config)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, and the weighted anchor and FGW terms that are switched on."""
        config = self.config
        w = self.encode(MODALITIES)
        losses = {"ce": self.cross_entropy(batch, w[0])}
        if config.normalise:
            w = F.normalize(w, dim=-1)
        if config.lambda_anc:
            losses["anc"] = config.lambda_anc * anchor_loss(w, self.prototypes)
        if config.lambda_fgw:
            losses["fgw"] = config.lambda_fgw * self.fgw_loss(w)
        return losses

    def diagnostics(self) -> dict[str, int]:
        """Count the steps whose coupling did not converge."""
        counts = {"fgw_unconverged_steps": self._unconverged} if self.config.lambda_fgw else {}
        self._unconverged = 0
        return counts

    def get_extra_state(self) -> Tensor:
        """Return the last coupling and its potentials, rows of (C + 2, C): the next step starts from them."""
        solution = self.fgw.solution if self.config.lambda_fgw else None
        if solution is None:
            return torch.zeros(0, self.contexts.n_classes, dtype=torch.float64)
        return torch.cat([solution.plan, torch.stack(solution.potentials)])

    def set_extra_state(self, state: Tensor) -> None:
        """Take up a saved coupling."""
        if len(state):
            state = state.to(self.contexts.vectors.device)
            unknown, count = torch.full((), torch.nan), torch.zeros((), dtype=torch.int64)
            self.fgw.solution = fgwot.Solution(
                plan=state[:-2],
                potentials=(state[-2], state[-1]),
                value=unknown,
                cost=unknown,
                value_linear=unknown,
                value_quad=unknown,
                status=count,
                residual=unknown,
                marginal_error=unknown,
                n_iter=count,
            )

    def fgw_loss(self, w: Tensor) -> Tensor:
        r"""Transport cost between the two modalities' prompts (2, C, D).

        .. math:: L_{fgw} = (1-\alpha) \sum_{ij} M_{ij} \Gamma_{ij}
                  + \alpha \sum_{ijkl} |D^H_{ik} - D^L_{jl}|^2 \Gamma_{ij} \Gamma_{kl}

        with :math:`M_{ij} = \lVert w_{i,H} - w_{j,L} \rVert^2`, :math:`D` Euclidean distances within a modality and
        uniform marginals. In float64: a handful of classes costs nothing, and the coupling is sharp to rounding.
        """
        high, low = w.to(torch.float64)
        if self.config.detach_high:
            high = high.detach()
        loss = _couple(self.fgw, high, low)
        solution = self.fgw.solution
        self._unconverged += int(solution is not None and not solution.converged)
        return loss.to(w.dtype)


def transport_plan(config: KMaTConfig, high: Tensor, low: Tensor) -> Tensor:
    """Couple given text features (C, D) of both modalities as a run of ``config`` would, from a cold start: (C, C)."""
    fgw = _fgw(config)
    _couple(fgw, high.to(torch.float64), low.to(torch.float64))
    assert fgw.solution is not None  # noqa: S101 (it was just found)
    return fgw.solution.plan


def _fgw(config: KMaTConfig) -> fgwot.FGWLoss:
    return fgwot.FGWLoss(
        alpha=config.alpha,
        epsilon=config.epsilon,
        solver=fgwot.ProximalPoint() if config.coupling == "proximal" else None,
        returns=config.fgw_value,
        warm_start=config.warm_start,
        max_iter=config.max_iter,
    )


def _couple(fgw: fgwot.FGWLoss, high: Tensor, low: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)  # counted instead, a run has hundreds of steps
        loss: Tensor = fgw(squared_distances(high, low), distances(high), distances(low))
    return loss

"""K-MaT (Zeng and Albarqouni, arXiv 2603.06340): prompts per class and modality, anchored in text, joined by FGW."""

import math
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import fgwot
from kmat.errors import UserError
from kmat.methods.base import (
    Batch,
    PromptLearner,
    Setting,
    prototypes,
    require_same_classes,
    required_descriptions,
    sentence_features,
)
from kmat.methods.configs import KMaTConfig
from kmat.methods.losses import anchor_loss, fgw_cost, geometry, squared_error_of_mean
from kmat.modalities import HIGH, LOW, MODALITIES

# The fit of low_start "anchor", by Adam. Three times the steps brought it 3 to 14 % closer on the phantoms.
FIT_STEPS = 100
FIT_RATE = 0.01


class KMaT(PromptLearner):
    """See :class:`~kmat.methods.configs.KMaTConfig`."""

    fgw: fgwot.FGWLoss | None
    prototypes: Tensor
    lambda_fgw: Tensor
    low_stage: Tensor

    def __init__(self, config: KMaTConfig, setting: Setting) -> None:
        require_same_classes(setting.task, "K-MaT")
        super().__init__(config, setting, csc=config.csc, msc=config.msc, same_start=config.low_start == "same")
        self.config = config
        if config.lambda_anc:
            remedy = ", or switch the anchor off with --lambda-anc 0"
            sentences = required_descriptions(setting.task, "K-MaT's anchor", remedy)
            means = prototypes(
                setting, sentences, normalise=config.normalise, renormalise=config.renormalise_prototypes
            )
            self.register_buffer("prototypes", torch.stack(means), persistent=False)
        self._unconverged = 0
        self.fgw = _fgw(config) if config.lambda_fgw else None
        by_rule = config.fgw_unit == "discrepancy" and config.lambda_fgw > 0
        unit = discrepancy_weight(config, self.prototypes, _errors(setting, config)) if by_rule else 1.0
        self.register_buffer("lambda_fgw", torch.tensor(config.lambda_fgw * unit), persistent=by_rule)
        if config.low_start == "anchor":
            self._fit_low()
        if config.low_start == "high":
            self.stages = 2
            self.register_buffer("low_stage", torch.tensor(False))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, and the weighted anchor and FGW terms that are switched on."""
        config = self.config
        w = self.encode(MODALITIES) if self.stages == 1 else self._encode_stage()
        losses = {"ce": self.cross_entropy(batch, w[0])}
        if config.normalise:
            w = F.normalize(w, dim=-1)
        if config.lambda_anc:
            losses["anc"] = config.lambda_anc * anchor_loss(w, self.prototypes)
        if config.lambda_fgw and (self.stages == 1 or self.low_stage):
            losses["fgw"] = self.lambda_fgw * self.fgw_loss(w)
        return losses

    def next_stage(self) -> None:
        """Start the low-end contexts at the trained high-end ones; from now on they alone are learned.

        As the high end learns nothing from the low one, it ends where it would in a single stage; and what the low
        end learns from depends on no image, so that it misses nothing by coming second.
        """
        self.low_stage.fill_(True)
        high, low = self.contexts.vectors
        with torch.no_grad():
            low.copy_(high)

    def diagnostics(self) -> dict[str, int]:
        """Count the steps whose coupling did not converge."""
        counts = {"fgw_unconverged_steps": self._unconverged} if self.config.lambda_fgw else {}
        self._unconverged = 0
        return counts

    def get_extra_state(self) -> Tensor:
        """Return the last coupling and its potentials, rows of (C + 2, C): the next step starts from them."""
        start = self.fgw.start_dict() if self.fgw else {}
        if not start:
            return torch.zeros(0, self.contexts.n_classes, dtype=torch.float64)
        return torch.cat([start["plan"], start["f"][None], start["g"][None]])

    def set_extra_state(self, state: Tensor) -> None:
        """Take up a saved coupling."""
        if len(state) and self.fgw:
            state = state.to(self.contexts.vectors[0].device)
            self.fgw.load_start({"plan": state[:-2], "f": state[-2], "g": state[-1]})

    def fgw_loss(self, w: Tensor) -> Tensor:
        """Transport cost between the two modalities' prompts (2, C, D), see :func:`kmat.methods.losses.fgw_cost`.

        The coupling has uniform marginals. In float64: a handful of classes costs nothing, and the coupling is sharp to
        rounding.
        """
        high, low = w.to(torch.float64)
        if self.config.detach_high:
            high = high.detach()
        if self.fgw is None:
            return fgw_cost(_diagonal(high, low), high, low, self.config.alpha).to(w.dtype)
        loss = _couple(self.fgw, high, low)
        solution = self.fgw.solution
        self._unconverged += int(solution is not None and not solution.converged)
        return loss.to(w.dtype)

    def _encode_stage(self) -> Tensor:
        """As ``encode``, with gradients for what is learned in this stage only: the rest is not to move at all."""
        learned = LOW if self.low_stage else HIGH
        rows = []
        for modality in MODALITIES:
            with torch.set_grad_enabled(modality == learned):
                rows.append(self.encode((modality,)))
        return torch.cat(rows)

    def _fit_low(self) -> None:
        """Fit the low-end contexts to their prototypes, from their random start."""
        low = self.contexts.to(self.backbone.device).vectors[1]
        optimiser = torch.optim.Adam([low], lr=FIT_RATE)
        for _ in range(FIT_STEPS):
            w = self.encode((LOW,))
            loss = anchor_loss(F.normalize(w, dim=-1) if self.config.normalise else w, self.prototypes[1:])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        low.grad = None


def transport_plan(config: KMaTConfig, high: Tensor, low: Tensor) -> Tensor:
    """Couple given text features (C, D) of both modalities as a run of ``config`` would, from a cold start: (C, C)."""
    fgw = _fgw(config)
    if fgw is None:
        return _diagonal(high, low)
    _couple(fgw, high.to(torch.float64), low.to(torch.float64))
    assert fgw.solution is not None  # noqa: S101 (it was just found)
    return fgw.solution.plan


def discrepancy_weight(config: KMaTConfig, prototypes: Tensor, errors: Tensor) -> float:
    r"""Weight of FGW at which it moves the low end by the anchor's own uncertainty: no image and no label is used.

    The anchor :math:`\bar p_{i,L}` is a mean of :math:`n_i` sentences and has a standard error :math:`s_i`. Written by
    another hand, the sentences would have put it elsewhere by about that much: to move :math:`w_{i,L}` within it goes
    against nothing that they say, to move it further does. Near the anchor, where :math:`\lambda_{anc} L_{anc}` has
    the curvature :math:`\lambda_{anc} / N_c`, FGW moves it by :math:`\lambda_{fgw} N_c \lVert g_i \rVert /
    \lambda_{anc}` to first order, with :math:`g_i = \partial L_{fgw} / \partial w_{i,L}` at :math:`w = \bar p`.
    Setting the root mean squares over classes equal gives

    .. math:: \lambda_{fgw} = \frac{\lambda_{anc}}{N_c} \sqrt{\frac{\sum_i s_i^2}{\sum_i \lVert g_i \rVert^2}},
              \qquad s_i^2 = \frac{1}{n_i (n_i - 1)} \sum_j \lVert f_{ij} - \bar p_{i,L} \rVert^2 .

    The rule is ours, not the paper's; it is Morozov's discrepancy principle (a misfit of the size of the noise), with
    the anchor as the datum and FGW as the regulariser. With ``normalise`` the gradient is the one along the sphere.

    Parameters
    ----------
    config : KMaTConfig
    prototypes : Tensor, shape (2, C, D)
    errors : Tensor, shape (C,)
        :math:`s_i^2` of the low end.

    Raises
    ------
    UserError
        If FGW has no gradient there.
    """
    high, anchor = (F.normalize(prototypes, dim=-1) if config.normalise else prototypes).to(torch.float64)
    anchor.requires_grad_()
    low = F.normalize(anchor, dim=-1) if config.normalise else anchor
    fgw = _fgw(config)
    loss = fgw_cost(_diagonal(high, low), high, low, config.alpha) if fgw is None else _couple(fgw, high, low)
    (gradient,) = torch.autograd.grad(loss, anchor)
    pull = float(gradient.norm())
    if pull < 1e-12:  # of rounding
        raise UserError("--fgw-unit discrepancy: FGW does not move these prototypes, no weight is large enough")
    return config.lambda_anc / len(anchor) * math.sqrt(float(errors.sum())) / pull


def _errors(setting: Setting, config: KMaTConfig) -> Tensor:
    sentences = required_descriptions(setting.task, "--fgw-unit discrepancy")
    features = sentence_features(setting, sentences[LOW], config.normalise)
    if min(map(len, features)) < 2:
        raise UserError("--fgw-unit discrepancy needs two sentences per class at least: one has no spread")
    return torch.stack([squared_error_of_mean(each) for each in features])


def _diagonal(high: Tensor, low: Tensor) -> Tensor:
    """Each class's share to itself, (C, C)."""
    if len(high) != len(low):
        raise UserError(f"--coupling diagonal needs one class to each: there are {len(high)} and {len(low)}")
    return torch.eye(len(high), dtype=torch.float64, device=high.device) / len(high)


def _fgw(config: KMaTConfig) -> fgwot.FGWLoss | None:
    """Return the coupling's solver; None if there is nothing to solve."""
    if config.coupling == "diagonal":
        return None
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
        loss: Tensor = fgw(*geometry(high, low))
    return loss

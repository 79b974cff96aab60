"""The losses in the K-MaT paper's notation: w are text features, pbar prototypes, one row per class."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import fgwot


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, (n, d) and (m, d) to (n, m), from differences: no cancellation between near rows."""
    return (a[:, None, :] - b[None, :, :]).square().sum(-1)


def distances(a: Tensor) -> Tensor:
    """Euclidean distances within a set, (n, d) to (n, n), with zero gradient where two rows coincide.

    The derivative of the square root at the zero diagonal is infinite, and infinity times zero is NaN.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    >>> distances(x).sum().backward(); x.grad.tolist()
    [[-1.2000000476837158, -1.600000023841858], [1.2000000476837158, 1.600000023841858]]
    """
    squared = squared_distances(a, a)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def geometry(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What FGW compares of two sets (n, d) and (m, d): squared distances between them, distances within each."""
    return squared_distances(high, low), distances(high), distances(low)


def anchor_loss(w: Tensor, prototypes: Tensor) -> Tensor:
    r"""Distance of the prompts from their descriptions' means.

    .. math:: L_{anc} = \frac{1}{2 N_c} \sum_{i=1}^{N_c} \sum_{m \in \{H, L\}} \lVert w_{i,m} - \bar p_{i,m} \rVert_2^2

    Parameters
    ----------
    w, prototypes : Tensor, shape (2, C, D)
        High-end first.
    """
    return (w - prototypes).square().sum() / (w.shape[0] * w.shape[1])


def fgw_cost(plan: Tensor, high: Tensor, low: Tensor, alpha: float) -> Tensor:
    r"""The K-MaT paper's transport cost of a given coupling ``plan`` (n, m), of text features (n, D) and (m, D).

    .. math:: L_{fgw} = (1-\alpha) \sum_{ij} M_{ij} \Gamma_{ij}
              + \alpha \sum_{ijkl} |D^H_{ik} - D^L_{jl}|^2 \Gamma_{ij} \Gamma_{kl}

    with :math:`M_{ij} = \lVert w_{i,H} - w_{j,L} \rVert^2` and :math:`D` Euclidean distances within a modality.
    """
    quadratic = fgwot.tensor_term(distances(high), distances(low), plan)
    return (((1 - alpha) * squared_distances(high, low) + alpha * quadratic) * plan).sum()


def squared_error_of_mean(features: Tensor) -> Tensor:
    r"""Squared standard error of the mean of ``features`` (n, D), the sum over dimensions.

    .. math:: s^2 = \frac{1}{n (n - 1)} \sum_j \lVert f_j - \bar f \rVert^2
    """
    return features.var(dim=0).sum() / len(features)


def template_loss(w: Tensor, template: Tensor) -> Tensor:
    r"""Distance of unit text features (C, D) from those of a template: KgCoOp's knowledge-guided term.

    .. math:: L_{kg} = 1 - \frac{1}{N_c} \sum_i \cos(w_i, w^{zs}_i)

    In KgCoOp's paper it is a mean squared distance, which is twice this for unit vectors; this is its code's.
    """
    return 1 - (w * template).sum(-1).mean()


def typical(scores: Tensor, tau: float) -> Tensor:
    r"""Which scores (J,) lie within ``tau`` sample standard deviations of their mean: BiomedCoOp's selection.

    .. math:: |s_j - \bar s| \le \tau \, \mathrm{std}(s)

    The published code first subtracts the median and divides by the median absolute deviation, then standardises the
    result, which cancels the first step, but makes NaN of scores without spread. Here these are all kept, as they are
    where none would be, which a ``tau`` below 1 allows for.

    Examples
    --------
    >>> typical(torch.tensor([0.0, 0.1, 0.0, 5.0]), tau=1.0).tolist(), typical(torch.ones(3), tau=1.0).tolist()
    ([True, True, True, False], [True, True, True])
    """
    deviations = (scores - scores.mean()).abs()
    kept = deviations <= tau * (deviations.square().sum() / max(len(scores) - 1, 1)).sqrt()
    return kept if kept.any() else torch.ones_like(kept)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Divergence of a student's prediction from a teacher's, both logits (B, C).

    .. math:: L_{kdsp} = \frac{1}{B N_c} \sum_{b,i} p^T_{bi} (\log p^T_{bi} - \log p^S_{bi})
    """
    divergence = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True)
    return divergence / student.numel()

"""Entropic Fused Gromov-Wasserstein optimal transport for PyTorch."""

from fgwot.adjoint import Adjoint, Envelope, Implicit, Unrolled
from fgwot.backend import backend
from fgwot.drivers import Explanation, explain
from fgwot.functional import fused_gromov_wasserstein, gromov_wasserstein
from fgwot.iteration.initial import MultiInit
from fgwot.losses import Factors, GroundLoss, huber
from fgwot.modules import FGWLoss
from fgwot.solution import ConvergenceWarning, Solution, Status, WarmStart
from fgwot.solvers import MirrorDescent, ProximalPoint
from fgwot.streamed.plan import LazyPlan
from fgwot.structure import LowRank
from fgwot.tensor_term import tensor_term
from fgwot.unbalanced import unbalanced_fused_gromov_wasserstein

__all__ = [
    "Adjoint",
    "ConvergenceWarning",
    "Envelope",
    "Explanation",
    "FGWLoss",
    "Factors",
    "GroundLoss",
    "Implicit",
    "LazyPlan",
    "LowRank",
    "MirrorDescent",
    "MultiInit",
    "ProximalPoint",
    "Solution",
    "Status",
    "Unrolled",
    "WarmStart",
    "backend",
    "explain",
    "fused_gromov_wasserstein",
    "gromov_wasserstein",
    "huber",
    "tensor_term",
    "unbalanced_fused_gromov_wasserstein",
]
__version__ = "0.1.0"

"""Entropic Fused Gromov-Wasserstein optimal transport for PyTorch."""

from fgwot import nn
from fgwot.adjoint import Adjoint, Envelope, Implicit, Unrolled
from fgwot.backend import backend
from fgwot.drivers import Explanation, explain
from fgwot.functional import fused_gromov_wasserstein, gromov_wasserstein
from fgwot.geodesic import geodesic
from fgwot.iteration.initial import MultiInit
from fgwot.losses import Factors, GroundLoss, huber
from fgwot.modules import FGWLoss
from fgwot.pot.solve import GromovResult, solve_gromov
from fgwot.sets.barycenters import Barycenter, barycenter
from fgwot.sets.pairs import Pairwise, pairwise
from fgwot.solution import ConvergenceWarning, Solution, Status, WarmStart
from fgwot.solvers import MirrorDescent, ProximalPoint
from fgwot.streamed.lazy import Lazy, Progress, ProgressLine
from fgwot.streamed.plan import LazyPlan
from fgwot.structure import LowRank
from fgwot.tensor_term import tensor_term

__all__ = [
    "Adjoint",
    "Barycenter",
    "ConvergenceWarning",
    "Envelope",
    "Explanation",
    "FGWLoss",
    "Factors",
    "GromovResult",
    "GroundLoss",
    "Implicit",
    "Lazy",
    "LazyPlan",
    "LowRank",
    "MirrorDescent",
    "MultiInit",
    "Pairwise",
    "Progress",
    "ProgressLine",
    "ProximalPoint",
    "Solution",
    "Status",
    "Unrolled",
    "WarmStart",
    "backend",
    "barycenter",
    "explain",
    "fused_gromov_wasserstein",
    "geodesic",
    "gromov_wasserstein",
    "huber",
    "nn",
    "pairwise",
    "solve_gromov",
    "tensor_term",
]
__version__ = "0.1.0"

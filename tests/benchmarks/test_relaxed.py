"""Prices and masses: peers solve the same problems, and the benchmark's own inner solver tells those that do not."""

import numpy as np
import ot
import pytest

from benchmarks import methods, relaxed
from benchmarks.accuracy import measure
from benchmarks.cases import Case
from benchmarks.problems import build
from benchmarks.settled import settle

pytestmark = pytest.mark.filterwarnings("ignore")  # what peers warn of is measured as accuracy

GROUPS = ("semi-relaxed", "partial", "unbalanced")
SMALL = [Case(group, "cloud", 6, 5, 0.1, alpha) for group in GROUPS for alpha in (0.0, 0.5, 1.0)]


def load(name):
    for prefix, module, command in (("OTT", "ott", "ott-jax"), ("fugw", "fugw", "--no-deps fugw")):
        if name.startswith(prefix):
            pytest.importorskip(module, reason=f"not installed: pip install {command}")
    return methods.load(name)


def tightest(name, case):
    method = load(name)
    return method.plan(method.prepare(case, build(case), method.ladder[-1])())


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for case in SMALL for name in methods.GROUPS[case.group]], ids=str
)
def test_plans_are_stationary(name, case):
    if not load(name).accepts(case):
        assert case.alpha == 0.5 or (case.group == "unbalanced" and case.alpha == 1)
        return
    assert measure(build(case), tightest(name, case)).worst <= 1e-6


@pytest.mark.parametrize("group", ["semi-relaxed proximal", "partial proximal"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_plans_without_entropy_are_near_local_minima(group, alpha):
    case = Case(group, "cloud", 6, 5, 0.1, alpha)
    problem = build(case)
    for name in methods.GROUPS[group]:
        plan = tightest(name, case)
        found, settled = measure(problem, plan, proximal=True), settle(problem, plan)
        assert relaxed.missed(problem, relaxed.rounded(problem, plan[0])) <= 1e-12
        assert found.objective[0] == pytest.approx(settled.objective[0], rel=1e-3)


def test_the_fused_partial_plans_of_pot_do_not_depend_on_the_linear_cost():
    case = Case("partial", "cloud", 6, 5, 0.1, 0.5)
    problem = build(case)
    M, C1, C2, p, q = problem.first
    theirs = ot.gromov.entropic_partial_fused_gromov_wasserstein(M, C1, C2, p, q, reg=0.1, m=problem.mass, alpha=0.5)
    assert measure(problem, theirs[None]).r_fix[0] > 1e-2


def test_prices_of_product_measures_are_another_problem():
    """POT's plan of the problem of which docs/benchmarks.md says that nobody else solves it."""
    problem = build(Case("unbalanced", "cloud", 6, 5, 0.1, 0.5))
    M, C1, C2, p, q = problem.first
    theirs, _ = ot.gromov.fused_unbalanced_gromov_wasserstein(
        C1, C2, p, q, M=M, reg_marginals=0.5, epsilon=0.1, alpha=0.5, max_iter=500, tol=1e-9
    )
    assert measure(problem, theirs[None]).r_fix[0] > 1e-2


@pytest.mark.parametrize("group", GROUPS)
def test_the_inner_solver_meets_its_equations(group):
    problem = build(Case(group, "cloud", 7, 6, 0.1))
    _, _, _, p, q = problem.first
    X = np.random.default_rng(0).uniform(size=(7, 6)) * 5
    T = relaxed.following(problem, X, np.outer(p, q))
    logs = np.log(T) + X
    assert np.ptp(logs - logs.mean(1, keepdims=True) - logs.mean(0) + logs.mean()) <= 1e-9  # f (+) g
    assert relaxed.missed(problem, T) <= 1e-9
    if group == "unbalanced":  # both potentials are -rho / epsilon log(sums / marginal)
        f, g = (-problem.rho[0] / problem.epsilon * np.log(s / side) for s, side in ((T.sum(1), p), (T.sum(0), q)))
        np.testing.assert_allclose(logs, f[:, None] + g, atol=1e-9)
    if group == "semi-relaxed":
        np.testing.assert_allclose(logs, np.broadcast_to(logs[:, :1], logs.shape), atol=1e-9)
    if group == "partial":
        full = np.isclose(T.sum(1), p, atol=1e-12)
        levels = (logs.mean(1))[~full]
        assert 0 < full.sum() < 7
        np.testing.assert_allclose(levels, levels[0], atol=1e-9)  # rows that are not full have no potential

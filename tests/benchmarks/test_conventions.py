"""The maps of conventions: every solver that is timed solves the same problem."""

import numpy as np
import pytest

from benchmarks import methods
from benchmarks.accuracy import measure
from benchmarks.cases import Case
from benchmarks.gpu.races import ENTRANTS
from benchmarks.problems import build
from benchmarks.settled import settle

pytestmark = pytest.mark.filterwarnings("ignore")  # what peers warn of is measured as accuracy

SMALL = [
    Case("single", "points", 6, 6, 0.05, 0.4),
    Case("single", "points", 6, 5, 0.05, 0.7),
    Case("structures", "asymmetric", 6, 6, 0.1, 0.4),
    Case("clouds", "cloud", 6, 6, 0.05, 0.4),
]


REFUSED = [("OTT", SMALL[2]), *(("OTT cloud", case) for case in SMALL[:3])]


def load(name):
    if name.startswith("OTT"):
        pytest.importorskip("ott", reason="OTT-JAX is not installed: pip install ott-jax")
    return methods.load(name)


def label(value):
    return value if isinstance(value, str) else value.name


def pairs(*names):
    """Each solver with each of the cases that it solves."""
    return pytest.mark.parametrize(
        ("name", "case"),
        [(name, case) for name in names for case in SMALL if (name, case) not in REFUSED],
        ids=label,
    )


def tightest_plan(name, case):
    method = load(name)
    return method.plan(method.prepare(case, build(case), method.ladder[-1])())


@pytest.mark.parametrize(("name", "case"), REFUSED, ids=label)
def test_a_solver_takes_no_part_in_another_problem(name, case):
    assert not load(name).accepts(case)


@pairs("fgwot torch", "POT", "POT torch", "OTT", "OTT cloud")
def test_plans_agree_with_fgwot(name, case):
    np.testing.assert_allclose(tightest_plan(name, case), tightest_plan("fgwot", case), atol=1e-6)


@pairs("fgwot", "fgwot backward", "fgwot torch", "fgwot torch backward", "POT", "POT backward", "OTT", "OTT cloud")
def test_plans_are_stationary(name, case):
    assert load(name).accepts(case)
    assert measure(build(case), tightest_plan(name, case)).worst <= 1e-6


@pytest.mark.parametrize("name", ["fgwot", "fgwot torch", "OTT"])
def test_batches_are_stationary(name):
    case = Case("batches", "points", 6, 6, 0.1, batch=4)
    assert measure(build(case), tightest_plan(name, case)).worst <= 1e-6


def test_proximal_point_and_ot_batch_end_at_the_same_objective():
    case = Case("proximal", "points", 6, 6, 0.1, batch=8)
    problem = build(case)
    ours = measure(problem, tightest_plan("fgwot proximal", case), proximal=True)
    peer = load("POT batch")
    theirs = measure(problem, peer.plan(peer.prepare(case, problem, peer.ladder[2])()), proximal=True)
    np.testing.assert_allclose(ours.objective, theirs.objective, rtol=1e-3)


def test_the_settled_objective_does_not_depend_on_whose_plan_is_continued():
    case = Case("proximal", "points", 6, 6, 0.1, batch=8)
    problem = build(case)
    found = []
    for name in ("fgwot proximal", "POT batch"):
        method = load(name)
        plan = method.plan(method.prepare(case, problem, method.ladder[0])())
        settled = settle(problem, plan)
        assert settled.worst <= 1e-5
        assert (settled.objective <= measure(problem, plan, proximal=True).objective + 1e-9).all()
        found.append(settled.objective)
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("name", ["fgwot warm", "fgwot torch warm"])
def test_a_step_of_the_training_is_differentiated(name):
    case = Case("training", "unit vectors", 4, 4, 0.1, 0.1)
    method = methods.load(name)
    step = method.prepare(case, build(case), {})
    assert [method.plan(step()) for _ in range(3)] == [None] * 3


def test_every_solver_takes_part_somewhere():
    grouped = {name for names in methods.GROUPS.values() for name in names}
    assert grouped | {entrant.method for entrant in ENTRANTS} == set(methods.MODULES)

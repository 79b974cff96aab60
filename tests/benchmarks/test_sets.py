"""The comparisons of sets of spaces, at a small size."""

import pytest
import torch

from benchmarks import families, methods, templates
from benchmarks.cases import Case

pytestmark = pytest.mark.filterwarnings("ignore")  # peers'

PAIRS = Case("pairs", "communities", 6, 8, 0.1, batch=3)
BARYCENTER = Case("barycenters", "ellipses", 4, 6, 0.3, 1.0, batch=2)
FUSED = Case("barycenters", "ellipses", 4, 6, 0.3, 0.5, batch=2)


def measured(name, case):
    """The accuracy of the tightest of a solver's settings."""
    if name.startswith("OTT"):
        pytest.importorskip("ott", reason="OTT-JAX is not installed: pip install ott-jax")
    method = methods.load(name)
    assert method.accepts(case)
    problem = families.draw(case)
    return families.measure(case, problem, method.plan(method.prepare(case, problem, method.ladder[-1])()))


@pytest.mark.parametrize("name", methods.GROUPS["pairs"])
def test_plans_of_pairs_are_stationary(name):
    assert measured(name, PAIRS).worst <= 1e-6


@pytest.mark.parametrize(
    ("name", "case"),
    [("POT barycenter", BARYCENTER), pytest.param("OTT barycenter", FUSED, marks=pytest.mark.slow)],
)
def test_barycenters_of_all_solvers_have_one_objective(name, case):
    ours, theirs = (measured(solver, case).objective for solver in ("fgwot barycenter", name))
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_pot_takes_no_part_in_barycenters_with_features():
    assert not methods.load("POT barycenter").accepts(FUSED)


def test_a_sample_stands_for_all_pairs():
    loop = methods.load("POT loop")
    assert loop.part(Case("pairs", "communities", 20, 40, 0.05, batch=100)) == 40 / 5050
    assert loop.part(PAIRS) == 1


def test_drawn_graphs_have_the_stated_sizes_and_classes():
    graphs = templates.sampled(6, seed=0)
    assert graphs.labels.tolist() == [0, 1, 2, 0, 1, 2]
    sizes = graphs.batch.bincount()
    assert 15 <= int(sizes.min()) <= int(sizes.max()) <= 30
    assert int(graphs.edge_index.max()) < len(graphs.x) == int(sizes.sum())


def test_errors_are_parts_of_the_graphs():
    """A network that always says one community is wrong on two graphs of three."""
    graphs = templates.split(Case("templates", "communities", 15, 30, 0.1, batch=6))
    constant = lambda graphs: torch.tensor([1.0, 0.0, 0.0]).expand(len(graphs.labels), 3)  # noqa: E731
    found = templates.measured(graphs.errors(constant))
    assert found.worst == pytest.approx(2 / 3)


def test_a_layer_is_trained():
    method = methods.load("fgwot layer")
    case = Case("templates", "communities", 15, 30, 0.1, batch=3)
    errors = method.plan(method.prepare(case, families.draw(case), {})())
    assert errors.shape == (2,)
    assert method.part(case) == templates.EPOCHS

"""The comparisons of sets of graphs run, at a small size."""

import pytest

from benchmarks import barycenters, pairwise, templates


@pytest.mark.filterwarnings("ignore::UserWarning")  # POT's
def test_pairs_beside_pot_reach_the_bound():
    cells = pairwise.compare("shortest path", 0.05, count=3, sample=2).split(" | ")
    assert cells[2] == "6"
    assert [cells[4], cells[6]] == ["100%", "100%"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # POT's
def test_barycenters_of_both_sides_are_as_good_as_the_best(capsys):
    barycenters.main(["--points", "6", "--support", "4", "--inputs", "2", "--epsilons", "0.3"])
    cells = capsys.readouterr().out.splitlines()[2].split(" | ")
    assert float(cells[4]) <= barycenters.BOUND
    assert float(cells[6]) <= barycenters.BOUND


def test_drawn_graphs_have_the_stated_sizes_and_classes():
    graphs = templates.sampled(6, seed=0)
    assert graphs.labels.tolist() == [0, 1, 2, 0, 1, 2]
    sizes = graphs.batch.bincount()
    assert 15 <= int(sizes.min()) <= int(sizes.max()) <= 30
    assert int(graphs.edge_index.max()) < len(graphs.x) == int(sizes.sum())

"""The comparisons of sets of graphs run, at a small size."""

import pytest

from benchmarks import pairwise, templates


@pytest.mark.filterwarnings("ignore::UserWarning")  # POT's
def test_pairs_beside_pot_reach_the_bound():
    cells = pairwise.compare("shortest path", 0.05, count=3, sample=2).split(" | ")
    assert cells[2] == "6"
    assert [cells[4], cells[6]] == ["100%", "100%"]


def test_drawn_graphs_have_the_stated_sizes_and_classes():
    graphs = templates.sampled(6, seed=0)
    assert graphs.labels.tolist() == [0, 1, 2, 0, 1, 2]
    sizes = graphs.batch.bincount()
    assert 15 <= int(sizes.min()) <= int(sizes.max()) <= 30
    assert int(graphs.edge_index.max()) < len(graphs.x) == int(sizes.sum())

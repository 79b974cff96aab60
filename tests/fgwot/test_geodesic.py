"""Shortest paths of sparse graphs, and sparse costs."""

import sys

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
import torch

import fgwot


def graph(directed=False):
    G = nx.gnp_random_graph(15, 0.2, seed=5, directed=directed)
    G.add_edges_from(zip(range(14), range(1, 15), strict=True))
    if directed:
        G.add_edge(14, 0)
    rng = np.random.default_rng(1)
    for edge in G.edges:
        G.edges[edge]["weight"] = rng.uniform(0.5, 2.0)
    return G


def expected(G):
    return nx.floyd_warshall_numpy(G, nodelist=sorted(G))


def sparse(G):
    return nx.to_scipy_sparse_array(G, nodelist=sorted(G), format="coo")


def tensor(A):
    return torch.sparse_coo_tensor(np.stack(A.coords), A.data, A.shape, check_invariants=True)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("directed", [False, True])
def test_the_distances_are_those_of_floyd_and_warshall(directed):
    G = graph(directed)
    A = sparse(G)
    given = {"SciPy": A, "COO": tensor(A), "CSR": tensor(A).to_sparse_csr()}
    for layout, adjacency in given.items():
        found = fgwot.geodesic(adjacency, directed=directed)
        assert isinstance(found, np.ndarray if layout == "SciPy" else torch.Tensor)
        np.testing.assert_allclose(found, expected(G), rtol=1e-12)


def test_an_edge_that_is_stored_once_counts_in_both_directions():
    half = scipy.sparse.triu(sparse(graph()))
    np.testing.assert_allclose(fgwot.geodesic(half), expected(graph()), rtol=1e-12)


def test_dtypes():
    A = sparse(graph())
    assert fgwot.geodesic(tensor(A).float()).dtype == torch.float32
    assert fgwot.geodesic(tensor(A).to(torch.int64)).dtype == torch.float64
    assert fgwot.geodesic(A.astype("f4")).dtype == np.float32


def test_nodes_without_a_path():
    A = scipy.sparse.coo_array(([1.0], ([0], [1])), shape=(3, 3))
    with pytest.raises(ValueError, match=r"4 of 9 pairs .* unreachable=VALUE, .* \(2\)"):
        fgwot.geodesic(A)
    assert fgwot.geodesic(A, unreachable=7.0).tolist() == [[0, 1, 7], [1, 0, 7], [7, 7, 0]]


@pytest.mark.parametrize(
    ("adjacency", "error", "message"),
    [
        (torch.ones(3, 3), TypeError, "to_sparse"),
        (np.ones((3, 3)), TypeError, "must be a sparse tensor"),
        (torch.ones(3, 4).to_sparse(), ValueError, "square"),
        (torch.ones(2, 3, 3).to_sparse(), ValueError, "square"),
        (-torch.ones(3, 3).to_sparse(), ValueError, "not negative"),
        ((torch.ones(3, 3) * torch.nan).to_sparse(), ValueError, "finite"),
    ],
    ids=["dense", "array", "oblong", "batch", "negative", "NaN"],
)
def test_what_is_no_graph(adjacency, error, message):
    with pytest.raises(error, match=message):
        fgwot.geodesic(adjacency)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse.csgraph", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        fgwot.geodesic(tensor(sparse(graph())))


@pytest.mark.parametrize("name", ["M", "C1", "C2"])
@pytest.mark.parametrize("layout", [scipy.sparse.coo_array, lambda a: torch.as_tensor(a).to_sparse()])
@pytest.mark.parametrize("options", [{}, {"rho": 1.0}], ids=["balanced", "relaxed"])
def test_sparse_costs_are_not_built_unasked(name, layout, options):
    dense = np.ones((3, 3)) if layout is scipy.sparse.coo_array else torch.ones(3, 3)
    given = {"M": dense, "C1": dense, "C2": dense} | {name: layout(np.eye(3))}
    with pytest.raises(TypeError, match=rf"{name} is sparse.*{name}\.to_dense\(\).*fgwot\.geodesic"):
        fgwot.fused_gromov_wasserstein(**given, **options)

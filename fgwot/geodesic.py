"""Shortest paths as structure: what a sparse graph says about all pairs of its nodes."""

from typing import Any

import torch
from torch import Tensor


def geodesic(adjacency: Any, *, directed: bool = False, unreachable: float | None = None) -> Any:
    """Lengths of the shortest paths between all nodes of a sparse graph.

    For GW a sparse graph needs a distance between every two nodes, and this is the usual one. It is Dijkstra's
    algorithm from each node, by SciPy, on the CPU: O(n (edges + n log n)) time, and n^2 numbers come out. No gradients.

    Parameters
    ----------
    adjacency : Tensor (n, n) in COO or CSR layout, or a matrix of scipy.sparse
        Lengths of edges, not negative: what is not stored is no edge. Ones for the number of steps.
    directed : bool
        Follow edges in their direction only. By default an edge counts in both.
    unreachable : float, optional
        Distance of nodes without a path between them. By default these are an error.

    Returns
    -------
    Tensor (n, n) or numpy.ndarray (n, n)
        Of the kind, dtype and device of `adjacency`; integers become float64.

    Raises
    ------
    TypeError
        If `adjacency` is not sparse.
    ValueError
        If it is not square, has negative or infinite lengths, or is not connected and `unreachable` is not given.
    ImportError
        Without SciPy.

    Examples
    --------
    >>> import torch
    >>> path = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])  # 0 - 1 - 2
    >>> geodesic(path.to_sparse())
    tensor([[0., 1., 3.],
            [1., 0., 2.],
            [3., 2., 0.]])
    """
    try:
        from scipy.sparse.csgraph import shortest_path
    except ImportError as error:
        raise ImportError("fgwot.geodesic needs SciPy: pip install scipy") from error
    graph = _scipy(adjacency)
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or graph.shape[0] == 0:
        raise ValueError(f"adjacency must be square, of shape (n, n) with n >= 1; got {tuple(graph.shape)}")
    lengths = graph.data
    if not (lengths >= 0).all() or lengths.max(initial=0) == float("inf"):
        raise ValueError("lengths of edges must be finite and not negative; what is not stored is no edge")
    distances = shortest_path(graph, method="D", directed=directed)
    apart = distances == float("inf")
    if apart.any():
        if unreachable is None:
            raise ValueError(
                f"{int(apart.sum())} of {apart.size} pairs of nodes have no path between them: pass unreachable=VALUE, "
                f"for example twice the largest distance ({2 * distances[~apart].max():g}), or take one component"
            )
        distances[apart] = unreachable
    if isinstance(adjacency, Tensor):
        dtype = adjacency.dtype if adjacency.is_floating_point() else torch.float64
        return torch.as_tensor(distances).to(adjacency.device, dtype)
    return distances.astype(graph.dtype if graph.dtype.kind == "f" else "float64", copy=False)


def _scipy(adjacency: Any) -> Any:
    """Return a sparse matrix as SciPy's in CSR layout."""
    if hasattr(adjacency, "tocsr"):
        return adjacency.tocsr()
    if not isinstance(adjacency, Tensor) or adjacency.layout is torch.strided:
        raise TypeError(
            "adjacency must be a sparse tensor or a matrix of scipy.sparse, where what is not stored is no edge; of a "
            "tensor whose zeros mean that, pass adjacency.to_sparse()"
        )
    from scipy.sparse import coo_array

    stored = adjacency.detach().to_sparse_coo().coalesce().cpu()
    if stored.dense_dim() or stored.sparse_dim() != 2:
        raise ValueError(f"adjacency must be square, of shape (n, n) with n >= 1; got {tuple(stored.shape)}")
    values = stored.values()
    values = values if values.dtype in (torch.float32, torch.float64) else values.double()
    return coo_array((values.numpy(), tuple(stored.indices().numpy())), shape=tuple(stored.shape)).tocsr()

"""Layers for networks on graphs."""

from typing import Protocol

import torch
from torch import Tensor, nn

from fgwot.functional import fused_gromov_wasserstein
from fgwot.problem import Weight
from fgwot.sets.spaces import squared_distances


class Graphs(Protocol):
    """A batch of graphs as torch_geometric's `Data` and `Batch` hold it.

    Attributes
    ----------
    x : Tensor (nodes, d)
        Features of the nodes of all graphs.
    edge_index : Tensor (2, edges), int64
        Both nodes of each edge.
    batch : Tensor (nodes,), int64, or None
        Graph of each node; ascending. None is one graph.
    """

    x: Tensor
    edge_index: Tensor
    batch: Tensor | None


class TemplateLayer(nn.Module):
    r"""Entropic FGW from graphs to learnable templates.

    Output k of a graph (C, X, p) is its distance to template (C_k, X_k, q_k),

    .. math:: \min_{T} (1-\alpha) \sum_{ij} \lVert X_i - X_{k,j} \rVert^2 T_{ij}
              + \alpha \sum_{ijkl} (C_{ik} - C_{k,jl})^2 T_{ij} T_{kl} + \varepsilon \mathrm{KL}(T | p q_k^\top)

    over couplings T: J of `fgwot.fused_gromov_wasserstein` plus terms of p and q that make it zero at least, whatever
    the sizes. Its gradients are exact in the templates, alpha and the inputs. All graphs and templates are one batch,
    solved in float64 and returned in the dtype of the inputs.

    Parameters
    ----------
    templates, points, features : int
        Number of templates K, of the points of each, and of the features of a node.
    alpha : float
        Weight of the structure in [0, 1], or where it starts, in (0, 1).
    epsilon : float
        Weight of the entropy, in units of the costs.
    learn_alpha, learn_weights : bool
        Whether alpha, and the weights of the points of templates, are learned.
    seed : int, optional
        Of the first templates; torch's generator by default.
    max_iter, tol
        As in `fgwot.fused_gromov_wasserstein`. Errors of plans enter distances squared, and gradients as they are.

    Attributes
    ----------
    structures, features : Parameter (K, points, points), (K, points, features)
        Of the templates; of a structure, the symmetric part counts. They start uniform in [0, 1] and standard normal.
    logits : Tensor (K, points)
        Their softmax are the weights; zero at first.

    References
    ----------
    Vincent-Cuaz, Flamary, Corneli, Vayer and Courty, "Template based graph neural network with optimal transport
    distances", NeurIPS 2022: there without entropy.

    Examples
    --------
    >>> import torch
    >>> layer = TemplateLayer(templates=4, points=5, features=2, seed=0)
    >>> C = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    >>> distances = layer(C.expand(8, 3, 3), torch.rand(8, 3, 2))
    >>> distances.sum().backward()
    >>> distances.shape, layer.structures.grad.shape
    (torch.Size([8, 4]), torch.Size([4, 5, 5]))
    """

    def __init__(
        self,
        templates: int,
        points: int,
        features: int,
        *,
        alpha: float = 0.5,
        epsilon: float = 0.05,
        learn_alpha: bool = False,
        learn_weights: bool = True,
        seed: int | None = None,
        max_iter: int = 1000,
        tol: float | None = 1e-4,
    ) -> None:
        super().__init__()
        if min(templates, points, features) < 1:
            raise ValueError(
                f"templates, points and features must be at least 1, got {templates}, {points} and {features}"
            )
        if not (0 < alpha < 1 if learn_alpha else 0 <= alpha <= 1):
            raise ValueError(f"alpha must lie in {'(0, 1) to be learned' if learn_alpha else '[0, 1]'}, got {alpha}")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.structures = nn.Parameter(torch.rand(templates, points, points, generator=generator))
        self.features = nn.Parameter(torch.randn(templates, points, features, generator=generator))
        self.logits = nn.Parameter(torch.zeros(templates, points), requires_grad=learn_weights)
        self.alpha_logit = nn.Parameter(torch.tensor(alpha).logit()) if learn_alpha else None
        self._alpha, self.epsilon, self.max_iter, self.tol = alpha, epsilon, max_iter, tol

    @property
    def alpha(self) -> Weight:
        """Weight of the structure."""
        return self._alpha if self.alpha_logit is None else self.alpha_logit.sigmoid()

    def forward(self, graphs: Tensor | Graphs, features: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Return the distances (G, K) of G graphs to the templates.

        Parameters
        ----------
        graphs : Tensor (G, n, n), or a batch of graphs
            Structures; or an object with `x`, `edge_index` and `batch` as those of torch_geometric, whose structures
            are the adjacency matrices and whose weights are uniform.
        features : Tensor (G, n, d)
            Of the points, with dense structures.
        weights : Tensor (G, n), optional
            Of the points, with dense structures; each graph's sum to one. Zero weights pad. Uniform by default.
        """
        if isinstance(graphs, Tensor):
            structures = graphs
        elif features is not None or weights is not None:
            raise ValueError("a batch of graphs has features of its own, and uniform weights")
        else:
            structures, features, weights = dense(graphs)
        if features is None:
            raise ValueError("dense structures need features (G, n, d)")
        if structures.ndim != 3 or features.ndim != 3 or features.shape[-1] != self.features.shape[-1]:
            raise ValueError(
                f"structures must be of shape (G, n, n) and features (G, n, {self.features.shape[-1]}), got "
                f"{tuple(structures.shape)} and {tuple(features.shape)}"
            )
        if weights is None:
            weights = structures.new_full(structures.shape[:2], 1 / structures.shape[-1])
        # Float32 stalls on some adjacency matrices, at residuals up to 1e-2.
        C, X, p = structures.double(), features.double(), weights.double()
        own, templates = self.logits.double().softmax(-1), self.structures.double()
        solution = fused_gromov_wasserstein(
            squared_distances(X[:, None], self.features.double()),
            C[:, None],
            (templates + templates.mT) / 2,
            p[:, None],
            own,
            alpha=self.alpha,
            epsilon=self.epsilon,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        # KL(T | p q') = sum T log T - sum p log p - sum q log q for masses of one.
        constant = 1 - torch.xlogy(p, p).sum(-1)[:, None] - torch.xlogy(own, own).sum(-1)
        return (solution.value + self.epsilon * constant).to(structures.dtype)

    def extra_repr(self) -> str:
        """Show the sizes."""
        templates, points, features = self.features.shape
        return f"templates={templates}, points={points}, features={features}, epsilon={self.epsilon}"


def dense(graphs: Graphs) -> tuple[Tensor, Tensor, Tensor]:
    """Adjacency matrices (G, n, n), features (G, n, d) and uniform weights (G, n) of a batch of graphs.

    n is the largest number of nodes; smaller graphs get nodes of zero mass.

    Raises
    ------
    ValueError
        If an edge or the order of nodes does not fit.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import torch
    >>> edges = torch.tensor([[0, 1, 2, 3, 3, 4], [1, 0, 3, 2, 4, 3]])
    >>> graphs = SimpleNamespace(x=torch.ones(5, 1), edge_index=edges, batch=torch.tensor([0, 0, 1, 1, 1]))
    >>> dense(graphs)[0][0]
    tensor([[0., 1., 0.],
            [1., 0., 0.],
            [0., 0., 0.]])
    """
    x, edges, batch = graphs.x, graphs.edge_index, graphs.batch
    if batch is None:
        batch = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if x.ndim != 2 or batch.shape != (len(x),) or edges.ndim != 2 or len(edges) != 2:
        raise ValueError(
            "x must be of shape (nodes, d), batch (nodes,) and edge_index (2, edges), got "
            f"{tuple(x.shape)}, {tuple(batch.shape)} and {tuple(edges.shape)}"
        )
    if edges.numel() and not (int(edges.min()) >= 0 and int(edges.max()) < len(x)):
        raise ValueError(f"edge_index must name nodes from 0 to {len(x) - 1}")
    sizes = batch.bincount()
    if bool((batch.diff() < 0).any()) or bool((sizes == 0).any()):
        raise ValueError("batch must be ascending and leave no graph without nodes")
    place = torch.arange(len(x), device=x.device) - (sizes.cumsum(0) - sizes)[batch]
    source, target = edges
    if bool((batch[source] != batch[target]).any()):
        raise ValueError("edge_index joins nodes of different graphs")
    count, n = len(sizes), int(sizes.max())
    structures = x.new_zeros(count, n, n).index_put(
        (batch[source], place[source], place[target]), x.new_ones(()), accumulate=False
    )
    features = x.new_zeros(count, n, x.shape[1]).index_put((batch, place), x)
    weights = x.new_zeros(count, n).index_put((batch, place), (1 / sizes.to(x.dtype))[batch])
    return structures, features, weights

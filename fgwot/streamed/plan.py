"""Plans that are not stored."""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor

from fgwot.streamed.passes import Kernel, Pass, blocks, one_pass


class LazyPlan:
    """A coupling T (n, m) that is known by its potentials and factors: O((n + m) r) numbers, and no array of n x m.

    ``plan @ V``, ``plan.T @ V``, ``plan.sum(dim)``, ``plan.rows(slice(0, 100))``, ``plan.argmax()`` and
    ``plan.topk(k)`` compute what they need, some rows at a time; ``plan.to_dense()`` builds it. Products are
    differentiable in V; the plan itself is a constant.

    Examples
    --------
    >>> import fgwot
    >>> x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> C = fgwot.LowRank.squared_distances(x)
    >>> plan = fgwot.gromov_wasserstein(C, C, epsilon=0.02, plan="lazy").plan
    >>> plan.shape, plan.argmax().tolist()
    (torch.Size([3, 3]), [0, 1, 2])
    >>> (plan @ x / plan.sum(1)[:, None]).round().flatten().tolist()  # where the points go
    [0.0, 1.0, 3.0]
    """

    def __init__(
        self,
        kernel: Kernel,
        a: Tensor,
        sums: tuple[Tensor, Tensor],
        mass: float,
        at: tuple[Tensor, Tensor],
        shape: torch.Size,
    ) -> None:
        self._kernel, self._a, self._mass = kernel.with_rows(sums[0]), a, mass
        self._sums = sums  # of rows and columns
        self._at = at  # the rows and columns that have mass
        self.shape = shape

    @property
    def dtype(self) -> torch.dtype:
        """Of what is computed from it."""
        return self._kernel.dtype

    @property
    def device(self) -> torch.device:
        """Of what is computed from it."""
        return self._a.device

    @property
    def T(self) -> "LazyPlan":  # noqa: N802 (torch's name)
        """The transposed plan."""
        # The column sums that it has are the row sums that a pass over the transposed plan restores.
        turned, shape = self._kernel.turned(self._a, self._sums[1]), torch.Size(self.shape[::-1])
        return LazyPlan(turned, self._kernel.b, self._sums[::-1], self._mass, self._at[::-1], shape)

    mT = T  # noqa: N815 (torch's name)

    def __matmul__(self, V: Tensor) -> Tensor:
        if not isinstance(V, Tensor) or V.ndim not in (1, 2) or len(V) != self.shape[1] or V.dtype != self.dtype:
            got = f"{V.dtype} of shape {tuple(V.shape)}" if isinstance(V, Tensor) else type(V).__name__
            raise TypeError(
                f"a lazy plan is multiplied by a tensor ({self.shape[1]},) or ({self.shape[1]}, k) of {self.dtype}; "
                f"got {got}"
            )
        product: Tensor = _Product.apply(self, V if V.ndim == 2 else V[:, None])
        return product if V.ndim == 2 else product[:, 0]

    def kernel_at(self, at: tuple[Tensor, Tensor], restored: Callable[[Tensor], Tensor]) -> Kernel | None:
        """Return a kernel with its row sums restored, if these are the rows and columns in which the plan has mass."""
        same = all(torch.equal(ours, theirs) for ours, theirs in zip(self._at, at, strict=True))
        return self._kernel.with_rows(restored(self._sums[0] * self._mass)) if same else None

    def product(self, V: Tensor, one_pass: Callable[[Kernel, Tensor], Pass] = one_pass) -> Tensor:
        """T V (n, k) in float64, for V (m, k), without gradients."""
        rows, columns = self._at
        found = one_pass(self._kernel, V[columns].to(torch.float64)).products * self._mass
        return found.new_zeros(self.shape[0], V.shape[1]).index_copy_(0, rows, found)

    def sum(self, dim: int | None = None) -> Tensor:
        """Sum of all entries, of columns (dim 0) or of rows (dim 1): known, no pass is made."""
        if dim is None:
            return (self._sums[0].sum() * self._mass).to(self.dtype)
        if dim not in (0, 1, -1, -2):
            raise IndexError(f"a plan has the dimensions 0 and 1, got {dim}")
        side = dim % 2
        sums, at = self._sums[1 - side], self._at[1 - side]
        full = sums.new_zeros(self.shape[1 - side]).index_copy_(0, at, sums * self._mass)
        return full.to(self.dtype)

    def rows(self, chosen: slice) -> Tensor:
        """Some rows that follow each other, for example ``plan.rows(slice(0, 100))``, as a tensor (k, m)."""
        if not isinstance(chosen, slice) or chosen.step not in (None, 1):
            raise TypeError(f"rows takes a slice without a step, for example slice(0, 100); got {chosen!r}")
        start, stop, _ = chosen.indices(self.shape[0])
        stop = max(start, stop)
        (rows, columns), kernel = self._at, self._kernel.entries
        inside = ((rows >= start) & (rows < stop)).nonzero()[:, 0]
        softmax = torch.softmax(torch.addmm(kernel.b, kernel.U[inside], kernel.V, alpha=-1), 1)
        some = softmax.mul_((self._sums[0][inside, None] * self._mass).to(self.dtype))
        if some.shape == (stop - start, self.shape[1]):
            return some
        wide = some.new_zeros(len(some), self.shape[1]).index_copy_(1, columns, some)
        return some.new_zeros(stop - start, self.shape[1]).index_copy_(0, rows[inside] - start, wide)

    def _blocks(self) -> Iterator[Tensor]:
        return (self.rows(block) for block in blocks(*self.shape))

    def argmax(self) -> Tensor:
        """The column (n,) of each row's largest entry."""
        return torch.cat([block.argmax(1) for block in self._blocks()])

    def topk(self, k: int) -> Tensor:
        """The k largest entries of each row, as a sparse tensor (n, m) in COO layout."""
        if not 1 <= k <= self.shape[1]:
            raise ValueError(f"k must be from 1 to {self.shape[1]}, got {k}")
        values, columns = (torch.cat(t) for t in zip(*(block.topk(k, 1) for block in self._blocks()), strict=True))
        rows = torch.arange(self.shape[0], device=self.device)[:, None].expand_as(columns)
        at = torch.stack([rows.flatten(), columns.flatten()])
        return torch.sparse_coo_tensor(at, values.flatten(), self.shape, check_invariants=False).coalesce()

    def to_dense(self) -> Tensor:
        """The plan as a tensor (n, m), beside which only some rows are held."""
        dense = self._a.new_empty(self.shape, dtype=self.dtype)
        for block in blocks(*self.shape):
            dense[block] = self.rows(block)
        return dense

    def detach(self) -> "LazyPlan":
        """The plan itself: it has no gradients."""
        return self

    def __repr__(self) -> str:
        return f"LazyPlan({self.shape[0]} x {self.shape[1]}, {self.dtype})"

    def _refuse(self, what: str) -> str:
        return (
            f"a lazy plan has no {what}: use plan @ V, plan.T @ V, sum(dim), rows(slice), argmax() or topk(k), or "
            "build the tensor with to_dense() (plan='dense' does so at once)"
        )

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(self._refuse(f"attribute {name!r}"))

    def __getitem__(self, _: Any) -> NoReturn:
        raise TypeError(self._refuse("indexing"))

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        plan = next(a for a in args if isinstance(a, cls))
        raise TypeError(plan._refuse(getattr(function, "__name__", "such function")))


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(self: LazyPlan, *_: Any) -> NoReturn:
        raise TypeError(self._refuse(name))

    return refuse


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "pow",
    "radd",
    "rsub",
    "rmul",
    "rtruediv",
    "rmatmul",
    "neg",
    "abs",
    "len",
):
    setattr(LazyPlan, f"__{_name}__", _refused(f"operation {_name!r}"))


def stored(plan: Any) -> Any:
    """Return the tensor of a lazy plan; anything else as it is."""
    return plan.to_dense() if isinstance(plan, LazyPlan) else plan


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: LazyPlan, V: Tensor) -> Tensor:
        ctx.plan = plan
        return plan.product(V).to(plan.dtype)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[None, Tensor]:
        return None, ctx.plan.T @ d

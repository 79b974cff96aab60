"""Validated, broadcast and batched inputs of one FGW problem or of many."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from fgwot.batch import Selectable, broadcast, flatten, take
from fgwot.losses import GroundLoss, ground_loss
from fgwot.structure import LowRank, Structure

Weight = float | Tensor


@dataclass(frozen=True)
class Problem(Selectable):
    r"""A flat batch of B problems in the dtype they are computed in.

    Minimise (1 - alpha) <M, T> + alpha <L (x) T, T> - epsilon H(T) over couplings T of p and q; with prices `rho` over
    all plans, of which rho1 KL(T 1 | p) + rho2 KL(T' 1 | q) is paid; with `mass` over plans of that mass with marginals
    up to p and q.

    Attributes
    ----------
    M : Tensor (B, n, m)
        Linear cost; zero where none was given.
    C1, C2 : Tensor (B, n, n), (B, m, m), or LowRank
        Structures.
    p, q : Tensor (B, n), (B, m)
        Marginals of equal mass.
    alpha, epsilon : Tensor (B,)
        Weight of the quadratic term, and weight of the entropy.
    loss : GroundLoss
    given : frozenset of str
        Which of these are the caller's; the others are defaults.
    batch_shape : torch.Size
        Leading shape of the caller's tensors; empty for a single problem.
    dtype : torch.dtype
        The caller's dtype. Half precision is computed, and its results are returned, in float32.
    rho : pair of Tensor (B,), optional
    mass : Tensor (B,), optional
    """

    M: Tensor
    C1: Structure
    C2: Structure
    p: Tensor
    q: Tensor
    alpha: Tensor
    epsilon: Tensor
    loss: GroundLoss
    given: frozenset[str]
    batch_shape: torch.Size
    dtype: torch.dtype
    rho: tuple[Tensor, Tensor] | None = None
    mass: Tensor | None = None

    @staticmethod
    def build(
        M: Tensor | None,
        C1: Structure,
        C2: Structure,
        p: Tensor | None,
        q: Tensor | None,
        alpha: Weight,
        epsilon: Weight,
        loss: str | GroundLoss,
        rho: tuple[Weight, Weight] | None = None,
        mass: Weight | None = None,
    ) -> "Problem":
        """Check types and shapes, broadcast the leading shapes and flatten them to one batch dimension."""
        loss = ground_loss(loss)
        _check_structures(C1, C2, loss)
        given = {name: t for name, t in {"M": M, "p": p, "q": q}.items() if t is not None} | _parts(C1, C2)
        _check_types(given)
        n, m = _check_shapes(given)
        like = next(iter(given.values()))
        compute = computed_in(like.dtype)
        asked = {"alpha": alpha, "epsilon": epsilon}
        if rho is not None:
            asked |= {"rho1": rho[0], "rho2": rho[1]}
        if mass is not None:
            asked["mass"] = mass
        weights = {
            name: (w.to(like.device) if isinstance(w, Tensor) else like.new_tensor(w, dtype=compute)).to(compute)
            for name, w in asked.items()
        }
        if M is None:
            M = like.new_zeros(()).expand(n, m)
        if p is None:
            p = like.new_full((n,), 1 / n, dtype=compute) * (1 if q is None else _mass(q).to(compute))
        if q is None:
            q = like.new_full((m,), 1 / m, dtype=compute) * _mass(p).to(compute)

        # (tensor, number of trailing dimensions that are not batch)
        structures = [C.A if isinstance(C, LowRank) else C for C in (C1, C2)]
        parts = [(M, 2), *((C, 2) for C in structures), (p, 1), (q, 1), *((w, 0) for w in weights.values())]
        try:
            batch = broadcast(t.shape[: t.ndim - k] for t, k in parts)
        except RuntimeError:
            shapes = {name: tuple(t.shape) for name, t in (given | weights).items()}
            raise ValueError(f"leading (batch) shapes do not broadcast: {shapes}") from None

        def flat(t: Tensor, trailing: int) -> Tensor:
            return flatten(t.to(compute), trailing, batch)

        C1, C2 = (C.map(lambda t: flat(t, 2)) if isinstance(C, LowRank) else flat(C, 2) for C in (C1, C2))
        w = {name: flat(weight, 0) for name, weight in weights.items()}
        prices = None if rho is None else (w["rho1"], w["rho2"])
        names = frozenset({*given, *weights})
        M, p, q = flat(M, 2), flat(p, 1), flat(q, 1)
        return Problem(M, C1, C2, p, q, w["alpha"], w["epsilon"], loss, names, batch, like.dtype, prices, w.get("mass"))

    @property
    def moving(self) -> bool:
        """Whether plans may have other marginals than p and q."""
        return moves(self.rho, self.mass)

    def check(self) -> None:
        """Look at the values.

        Raises
        ------
        ValueError
            If one is not finite or of the wrong sign, or if masses are zero, do not fit together, or not to the mass of
            the plan.
        """
        _check_values(self)
        if self.rho is not None:
            _check_prices(*self.rho, self.p, self.q, self.dtype)
        elif self.mass is not None:
            _check_mass(self.mass, self.p, self.q, self.dtype)
        else:
            _check_equal_mass(self.p, self.q, self.dtype)

    def restore(self, x: Tensor) -> Tensor:
        """Give a result of shape (B, ...) the caller's batch shape."""
        return x.reshape(self.batch_shape + x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """Give a result of the caller's batch shape one batch dimension."""
        return x.reshape(len(self.p), *x.shape[len(self.batch_shape) :])

    def select(self, index: Tensor) -> "Problem":
        """Return the problems at the given positions of the batch."""
        return self.of(take(t, index) for t in self.tensors)

    @property
    def named(self) -> dict[str, Tensor]:
        """M, one or two tensors for each structure, p, q, alpha, epsilon, and prices or a mass, by name."""
        after = {"p": self.p, "q": self.q, "alpha": self.alpha, "epsilon": self.epsilon}
        if self.rho is not None:
            after |= {"rho1": self.rho[0], "rho2": self.rho[1]}
        if self.mass is not None:
            after["mass"] = self.mass
        return {"M": self.M} | _parts(self.C1, self.C2) | after

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The same without their names: what `of` takes."""
        return tuple(self.named.values())

    def of(self, tensors: Iterable[Tensor]) -> "Problem":
        """Return problems of this kind with other tensors, as one flat batch."""
        t = dict(zip(self.named, tensors, strict=True))
        C1, C2 = (t[C] if C in t else LowRank(t[f"{C}.A"], t[f"{C}.B"]) for C in ("C1", "C2"))
        rho = None if self.rho is None else (t["rho1"], t["rho2"])
        M, p, q, alpha, epsilon = (t[name] for name in ("M", "p", "q", "alpha", "epsilon"))
        weights = alpha, epsilon, self.loss, self.given, alpha.shape, self.dtype
        return Problem(M, C1, C2, p, q, *weights, rho, t.get("mass"))

    def dense(self) -> tuple[Tensor, Tensor]:
        """C1 and C2 as tensors.

        Raises
        ------
        TypeError
            If they are of low rank.
        """
        if isinstance(self.C1, LowRank) or isinstance(self.C2, LowRank):
            raise TypeError("this needs structures as tensors, not LowRank; the envelope adjoint takes both")
        return self.C1, self.C2

    @property
    def low_rank(self) -> tuple[LowRank, LowRank]:
        """C1 and C2 of low rank.

        Raises
        ------
        TypeError
            If they are tensors.
        """
        if isinstance(self.C1, LowRank) and isinstance(self.C2, LowRank):
            return self.C1, self.C2
        raise TypeError("this needs LowRank structures")


def moves(rho: object, mass: object) -> bool:
    """Whether plans may have other marginals than p and q: None says that no price, or no mass, was given."""
    return rho is not None or mass is not None


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """Type in which problems of a dtype are computed, and their results are returned."""
    return torch.promote_types(dtype, torch.float32)


def allowed_imbalance(dtype: torch.dtype) -> float:
    """Relative difference of the two masses that is rounding of normalised entries; the solver rescales q by it."""
    return max(1e-6, 4 * torch.finfo(dtype).eps)


def _mass(marginal: Tensor) -> Tensor:
    return marginal.detach().sum(-1, keepdim=True)


def _parts(C1: Structure, C2: Structure) -> dict[str, Tensor]:
    """Tensors that the structures consist of, by name."""
    if isinstance(C1, LowRank) and isinstance(C2, LowRank):
        return {"C1.A": C1.A, "C1.B": C1.B, "C2.A": C2.A, "C2.B": C2.B}
    return {"C1": C1, "C2": C2}  # type: ignore[dict-item]


def _check_structures(C1: Structure, C2: Structure, loss: GroundLoss) -> None:
    if not (isinstance(C1, LowRank) and isinstance(C2, LowRank)):
        for name, C in (("C1", C1), ("C2", C2)):
            if isinstance(C, LowRank):
                raise TypeError(f"{name} is LowRank and the other structure is not: make both or neither LowRank")
        return
    if loss.name != "square":
        raise ValueError(f"LowRank structures are for the square loss, not {loss.name}")
    for name, C in (("C1", C1), ("C2", C2)):
        if C.A.shape[-2:] != C.B.shape[-2:] or C.A.ndim != C.B.ndim or C.A.ndim < 2:
            raise ValueError(
                f"{name} = A B' needs A and B of one shape (..., n, r), got {tuple(C.A.shape)} and {tuple(C.B.shape)}"
            )


def _check_types(given: dict[str, Tensor]) -> None:
    for name, t in given.items():
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, or an array of NumPy, CuPy or JAX, got {type(t).__name__}; "
                "convert it with torch.as_tensor"
            )
        if not t.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {t.dtype}; convert it with .double() or .float()")
    dtypes = {name: t.dtype for name, t in given.items()}
    if len(set(dtypes.values())) > 1:
        raise TypeError(
            f"all tensors must have one dtype, got {dtypes}; convert them with .to(dtype) (arrays: .astype)"
        )
    devices = {name: str(t.device) for name, t in given.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"all tensors must be on one device, got {devices}; move them with .to(device)")


def _check_shapes(given: dict[str, Tensor]) -> tuple[int, int]:
    for name in ("C1", "C2"):
        if name in given:
            shape = tuple(given[name].shape)
            if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
                raise ValueError(f"{name} must be square, of shape (..., n, n) with n >= 1; got {shape}")
    n, m = (given[name if name in given else f"{name}.A"].shape[-2] for name in ("C1", "C2"))
    expected = {"M": (n, m), "p": (n,), "q": (m,)}
    for name, end in expected.items():
        if name in given and tuple(given[name].shape[-len(end) :]) != end:
            wanted = ", ".join(map(str, end))
            raise ValueError(
                f"{name} must have shape (..., {wanted}) to match C1 ({n} points) and C2 ({m} points); "
                f"got {tuple(given[name].shape)}"
            )
    return n, m


def _check_values(problem: Problem) -> None:
    # What the batch shares is looked at once.
    given = {name: t[:1] if t.stride(0) == 0 else t for name, t in problem.named.items() if name in problem.given}
    given = {name: t for name, t in given.items() if name not in ("rho1", "rho2")}
    for name, t in given.items():
        # A finite sum has finite terms; only if it is not are they looked at.
        if not isfinite(t.sum().item()) and (bad := int((~t.isfinite()).sum())):
            raise ValueError(f"{name} has {bad} entries that are not finite (NaN or infinite)")
    alpha, epsilon, loss = given["alpha"], given["epsilon"], problem.loss
    if (alpha < 0).any() or (alpha > 1).any():
        raise ValueError(f"alpha must lie in [0, 1], got {_extremes(alpha)}")
    if (epsilon <= 0).any():
        raise ValueError(
            f"epsilon must be positive, got {_extremes(epsilon)}; for an unregularised plan use ProximalPoint"
        )
    if "M" not in given and not bool((alpha == 1).all()):
        raise ValueError(
            f"without M the problem is purely quadratic and alpha must be 1, got {_extremes(alpha)}; "
            "use gromov_wasserstein or pass alpha=1"
        )
    for name in ("C1", "C2"):
        if loss.non_negative and (given[name] < 0).any():
            raise ValueError(f"the {loss.name} loss needs non-negative structure, {name} has {_extremes(given[name])}")
    for name in ("p", "q"):
        if name in given:
            if (given[name] < 0).any():
                raise ValueError(f"{name} must be non-negative, got {_extremes(given[name])}")
            if (given[name].sum(-1) <= 0).any():
                raise ValueError(f"{name} must have positive mass; one of its rows sums to zero")


def _check_equal_mass(p: Tensor, q: Tensor, dtype: torch.dtype) -> None:
    mass_p, mass_q = _mass(p)[:, 0], _mass(q)[:, 0]
    unequal = (mass_p - mass_q).abs() > allowed_imbalance(dtype) * mass_p
    if bool(unequal.any()):
        b = int(unequal.nonzero()[0])
        raise ValueError(
            f"p and q must have equal mass; problem {b} has {float(mass_p[b]):.6g} and {float(mass_q[b]):.6g}. "
            "Rescale one, for example q * (p.sum(-1, keepdim=True) / q.sum(-1, keepdim=True))"
        )


def _check_prices(rho1: Tensor, rho2: Tensor, p: Tensor, q: Tensor, dtype: torch.dtype) -> None:
    for rho in (rho1, rho2):
        if bool((~(rho >= 0)).any()):
            raise ValueError(f"rho must lie in [0, inf], got {_extremes(rho)}")
    if bool((rho1 + rho2 == 0).any()):
        raise ValueError("rho must not be zero on both sides: no marginal would matter, and neither would p and q")
    exact = (rho1.isinf() & rho2.isinf()).nonzero()[:, 0]
    _check_equal_mass(p[exact], q[exact], dtype)


def _check_mass(mass: Tensor, p: Tensor, q: Tensor, dtype: torch.dtype) -> None:
    largest = torch.minimum(_mass(p), _mass(q))[:, 0]
    if bool((~(mass > 0) | (mass > (1 + allowed_imbalance(dtype)) * largest)).any()):
        raise ValueError(
            f"mass must be positive and at most that of p and q, {_extremes(largest)}; got {_extremes(mass)}"
        )


def _extremes(t: Tensor) -> str:
    low, high = float(t.detach().min()), float(t.detach().max())
    return f"{low:g}" if low == high else f"values from {low:g} to {high:g}"

"""Sets of spaces of different sizes, checked and padded to batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from fgwot.problem import allowed_imbalance, computed_in
from fgwot.structure import LowRank

_COARSEST_BUCKETS = 8  # buckets between a number of points and its double; none is finer than 8 points

Tensors = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Padded:
    """Spaces as one batch; those smaller than the largest have points of zero mass, with zeros for costs and features.

    Attributes
    ----------
    index : Tensor (B,)
        Their places in the set.
    structures, features, weights : Tensor (B, n, n), (B, n, d), (B, n)
        Features are None where the set has none.
    """

    index: Tensor
    structures: Tensor
    features: Tensor | None
    weights: Tensor


@dataclass(frozen=True)
class Spaces:
    """A set of spaces in the dtype they are computed in.

    Attributes
    ----------
    structures, features, weights : list of Tensor (n, n), (n, d), (n,)
        Of one space each. Features are None where the set has none.
    """

    structures: list[Tensor]
    features: list[Tensor] | None
    weights: list[Tensor]

    @staticmethod
    def of(
        structures: Tensors,
        features: Tensors | None,
        weights: Tensors | None,
        *,
        non_negative: bool = False,
        one_mass: bool = True,
    ) -> "Spaces":
        """Check the arguments of a function of sets; weights are uniform, of mass one, by default.

        `non_negative` is what the ground loss asks of structures, `one_mass` what exact marginals ask of weights.

        Raises
        ------
        TypeError, ValueError
            If one is bad; the message says which.
        """
        given: dict[str, list[Tensor]] = {"structures": _listed("structures", structures)}
        for name, tensors in (("features", features), ("weights", weights)):
            if tensors is not None:
                given[name] = _listed(name, tensors)
                if len(given[name]) != len(given["structures"]):
                    raise ValueError(f"{len(given['structures'])} structures came with {len(given[name])} {name}")
        _check_types(given)
        _check_shapes(**given)
        _check_values(given)
        for i, C in enumerate(given["structures"] if non_negative else ()):
            if bool((C < 0).any()):
                raise ValueError(f"the loss needs non-negative structures, structures[{i}] has {float(C.min()):g}")
        first = given["structures"][0]
        compute = computed_in(first.dtype)
        if "weights" in given:
            _check_weights(given["weights"], one_mass)
        else:
            given["weights"] = [C.new_full((len(C),), 1 / len(C), dtype=compute) for C in given["structures"]]
        converted = {name: [t.to(compute) for t in tensors] for name, tensors in given.items()}
        return Spaces(converted["structures"], converted.get("features"), converted["weights"])

    @property
    def mass(self) -> float:
        """Mass of each of them, or the mean of their masses."""
        return float(torch.stack([w.detach().sum() for w in self.weights]).mean())

    def padded(self, index: Sequence[int] | None = None) -> Padded:
        """Those at some places, all by default, as one batch."""
        index = range(len(self.structures)) if index is None else index
        size = max(len(self.weights[i]) for i in index)
        missing = {i: size - len(self.weights[i]) for i in index}
        features = None
        if self.features is not None:
            features = torch.stack([pad(self.features[i], (0, 0, 0, more)) for i, more in missing.items()])
        return Padded(
            torch.tensor(list(index), device=self.structures[0].device),
            torch.stack([pad(self.structures[i], (0, more, 0, more)) for i, more in missing.items()]),
            features,
            torch.stack([pad(self.weights[i], (0, more)) for i, more in missing.items()]),
        )

    def buckets(self) -> list[Padded]:
        """All of them in batches of about one size, the largest first.

        A space gets at most 7 points of zero mass, or an eighth of its own number if that is more.
        """
        by_size: dict[int, list[int]] = {}
        for i, w in enumerate(self.weights):
            n = len(w)
            step = max(8, 2 ** (n.bit_length() - 1) // _COARSEST_BUCKETS)
            by_size.setdefault(-(-n // step), []).append(i)
        return [self.padded(by_size[size]) for size in sorted(by_size, reverse=True)]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Linear costs ``|x_i - y_j|^2`` (..., n, m) of features (..., n, d) and (..., m, d)."""
    return LowRank.squared_distances(x, y).to_dense()


def _listed(name: str, tensors: Tensors) -> list[Tensor]:
    if not isinstance(tensors, Tensor | list | tuple) or (isinstance(tensors, Tensor) and tensors.ndim < 2):
        raise TypeError(
            f"{name} must be a sequence of tensors, or one tensor of them all, got {type(tensors).__name__}"
        )
    if not len(tensors):
        raise ValueError(f"{name} is empty")
    return list(tensors)


def _check_types(given: dict[str, list[Tensor]]) -> None:
    first = given["structures"][0]
    for name, tensors in given.items():
        for i, t in enumerate(tensors):
            if not isinstance(t, Tensor):
                raise TypeError(f"{name}[{i}] must be a torch.Tensor, got {type(t).__name__}")
            if not t.is_floating_point():
                raise TypeError(f"{name}[{i}] must be floating point, got {t.dtype}")
            if t.dtype != first.dtype or t.device != first.device:
                raise TypeError(
                    f"all tensors must have one dtype and device; structures[0] is {first.dtype} on {first.device}, "
                    f"{name}[{i}] {t.dtype} on {t.device}"
                )


def _check_shapes(
    structures: list[Tensor], features: list[Tensor] | None = None, weights: list[Tensor] | None = None
) -> None:
    for i, C in enumerate(structures):
        if C.ndim != 2 or C.shape[0] != C.shape[1] or not len(C):
            raise ValueError(f"structures[{i}] must be of shape (n, n) with n >= 1, got {tuple(C.shape)}")
        if features is not None and (features[i].ndim != 2 or len(features[i]) != len(C)):
            raise ValueError(f"features[{i}] must be of shape ({len(C)}, d), got {tuple(features[i].shape)}")
        if features is not None and features[i].shape[1] != features[0].shape[1]:
            raise ValueError(
                f"features have different dimensions: features[0] {features[0].shape[1]}, "
                f"features[{i}] {features[i].shape[1]}"
            )
        if weights is not None and weights[i].shape != (len(C),):
            raise ValueError(f"weights[{i}] must be of shape ({len(C)},), got {tuple(weights[i].shape)}")


def _check_values(given: dict[str, list[Tensor]]) -> None:
    for name, tensors in given.items():
        sums = torch.stack([t.detach().sum() for t in tensors])
        for i in (~sums.isfinite()).nonzero().flatten().tolist():
            if not bool(tensors[i].isfinite().all()):
                raise ValueError(f"{name}[{i}] has entries that are not finite (NaN or infinite)")


def _check_weights(weights: list[Tensor], one_mass: bool) -> None:
    least = torch.stack([w.detach().min() for w in weights])
    masses = torch.stack([w.detach().sum() for w in weights])
    if bool((least < 0).any()):
        i = int(least.argmin())
        raise ValueError(f"weights[{i}] must be non-negative, its smallest is {float(least[i]):g}")
    if bool((masses <= 0).any()):
        raise ValueError(f"weights[{int(masses.argmin())}] sums to zero")
    unequal = (masses - masses[0]).abs() > allowed_imbalance(masses.dtype) * masses[0]
    if one_mass and bool(unequal.any()):
        i = int(unequal.nonzero()[0])
        raise ValueError(
            f"all spaces must have equal mass; weights[0] has {float(masses[0]):g}, weights[{i}] {float(masses[i]):g}"
        )

"""Arrays of NumPy and JAX, and of a stand-in for CuPy, in place of tensors."""

import functools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from problems import random_case

import fgwot
from fgwot.arrays import any_array

CASE = random_case(7, kind="euclidean", max_points=8, epsilon=(0.1, 0.2))
ARRAYS = CASE.arrays
TENSORS = CASE.tensors()


def solve(*arrays, **options):
    return fgwot.fused_gromov_wasserstein(*arrays, **(CASE.weights | options))


def fields(solution):
    values = dict(vars(solution))
    values["f"], values["g"] = values.pop("potentials")
    return values | {"converged": solution.converged}


def same(solution, expected, rtol=1e-12):
    """All fields agree, whatever their kinds."""
    for name, value in fields(solution).items():
        np.testing.assert_allclose(np.asarray(value), fields(expected)[name], rtol=rtol, atol=rtol, err_msg=name)


def test_numpy_in_numpy_out():
    solution = solve(*ARRAYS)
    same(solution, solve(*TENSORS))
    for name, value in fields(solution).items():
        assert isinstance(value, np.ndarray | np.bool_), name
    assert solution.plan.flags.writeable
    assert repr(solution) == repr(solve(*TENSORS))
    assert solution.detach().plan is solution.plan


def test_jax_in_jax_out():
    solution = solve(*(jnp.asarray(a, jnp.float32) for a in ARRAYS))
    assert all(isinstance(value, jax.Array) for value in fields(solution).values())
    assert solution.plan.dtype == jnp.float32
    same(solution, solve(*(t.float() for t in TENSORS)), rtol=1e-6)
    assert repr(solution) == repr(solve(*TENSORS))


class FakeCuPyArray:
    """What fgwot may use of a cupy.ndarray: DLPack, ndim, dtype and copy; its library is known by its module alone."""

    def __init__(self, array):
        self.array = array
        self.ndim, self.dtype = array.ndim, array.dtype

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def copy(self):
        return FakeCuPyArray(self.array.copy())


FakeCuPyArray.__module__ = "cupy"


@pytest.fixture
def cupy(monkeypatch):
    module = types.ModuleType("cupy")
    module.from_dlpack = lambda tensor: FakeCuPyArray(np.from_dlpack(tensor))
    monkeypatch.setitem(sys.modules, "cupy", module)


@pytest.mark.usefixtures("cupy")
def test_a_library_without_a_namespace_is_found_by_its_module():
    """A stand-in on the CPU: real CuPy was not at hand."""
    solution = solve(*map(FakeCuPyArray, ARRAYS))
    assert isinstance(solution.plan, FakeCuPyArray)
    np.testing.assert_array_equal(solution.plan.array, solve(*ARRAYS).plan)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def every_other(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]))
    wide[..., ::2] = a
    return wide[..., ::2]


def of_records(a):
    records = np.zeros(a.shape, dtype=[("other", "f4"), ("a", "f8")])
    records["a"] = a
    return records["a"]


@pytest.mark.parametrize(
    "lay_out",
    [read_only, np.asfortranarray, lambda a: a[..., ::-1].copy()[..., ::-1], every_other, of_records],
    ids=["read-only", "Fortran", "reversed", "strided", "records"],
)
def test_any_memory_layout(lay_out):
    same(solve(*map(lay_out, ARRAYS)), solve(*TENSORS))


@any_array
def pass_on(x, *rest):
    assert isinstance(x, torch.Tensor)
    return x, rest


@pytest.mark.parametrize("library", [np, jnp])
def test_memory_is_shared_both_ways(library):
    x = library.asarray(ARRAYS[0])
    there, _ = pass_on(x)
    pointers = [np.asarray(a).__array_interface__["data"][0] for a in (x, there)]
    assert pointers[0] == pointers[1]


def test_transposed_numpy_arrays_are_not_copied():
    x = np.ones((3, 4))
    seen = []
    any_array(lambda t: seen.append(t.data_ptr()))(x.T)
    assert seen == [x.ctypes.data]


@pytest.mark.parametrize("number", [np.float64, np.float32, np.array, jnp.asarray], ids=["f8", "f4", "0-d", "jax 0-d"])
@pytest.mark.parametrize("arrays", [ARRAYS, TENSORS], ids=["numpy", "torch"])
def test_numbers_may_be_of_any_library(number, arrays):
    solution = solve(*arrays, alpha=number(0.5), epsilon=number(0.25))
    assert isinstance(solution.plan, type(arrays[0]))
    same(solution, solve(*TENSORS, alpha=0.5, epsilon=0.25))


def test_solutions_low_rank_pairs_and_batches():
    first = solve(*ARRAYS)
    again = solve(*ARRAYS, init=first)
    assert again.n_iter <= 2
    same(solve(*ARRAYS, init=first.plan), solve(*TENSORS, init=torch.as_tensor(first.plan)))
    x = np.random.default_rng(0).random((6, 2))
    C = fgwot.LowRank.squared_distances(x)
    assert isinstance(C.A, np.ndarray)
    same(fgwot.gromov_wasserstein(C, C), fgwot.gromov_wasserstein(*2 * [C.map(torch.as_tensor)]))
    rho = (np.array(1.0), np.float32(0.5))
    solution = fgwot.fused_gromov_wasserstein(*ARRAYS, rho=rho, epsilon=0.3)
    same(solution, fgwot.fused_gromov_wasserstein(*TENSORS, rho=(1.0, 0.5), epsilon=0.3))
    epsilons = np.array([0.2, 0.3])
    same(solve(*ARRAYS, epsilon=epsilons), solve(*TENSORS, epsilon=torch.as_tensor(epsilons)))


def test_other_functions():
    M, C1, C2, *_ = ARRAYS
    T = np.full(M.shape, 1 / M.size)
    term = fgwot.tensor_term(C1, C2, T)
    np.testing.assert_allclose(term, fgwot.tensor_term(*map(torch.as_tensor, (C1, C2, T))), rtol=1e-12)
    assert isinstance(term, np.ndarray)
    assert fgwot.explain(*ARRAYS, epsilon=0.1) == fgwot.explain(*TENSORS, epsilon=0.1)
    criterion = fgwot.FGWLoss(epsilon=0.2)
    losses = [criterion(*ARRAYS) for _ in range(2)]
    assert isinstance(losses[1], np.ndarray)
    np.testing.assert_allclose(*losses, rtol=1e-6)


def traced(*arrays):
    jax.jit(lambda *a: solve(*a).value)(*map(jnp.asarray, arrays))


class TensorOfNobody(FakeCuPyArray):
    __module__ = "json"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda M, C1, C2: solve(torch.as_tensor(M), C1, C2), "one library: M is of torch, C1 is of numpy"),
        (lambda M, C1, C2: solve(M, C1, jnp.asarray(C2)), "one library: M is of numpy, C2 is of jax"),
        (lambda M, C1, C2: solve(M, C1, C2, init=torch.as_tensor(M)), "init is of torch"),
        (lambda M, C1, C2: solve(M.astype(int), C1, C2), r"M must be floating point, got int64; .*astype\(float\)"),
        (lambda M, C1, C2: solve(M, C1.astype(">f8"), C2), r"C1 of >f8 cannot be shared .*astype\(float\)"),
        (lambda M, C1, C2: solve(M, C1.astype(object), C2), r"C1 of object cannot be shared .*astype\(float\)"),
        (lambda M, C1, C2: solve(M.astype("f4"), C1, C2), r"one dtype.*arrays: \.astype"),
        (lambda M, C1, C2: solve(M, C1.tolist(), C2), "C1 must be a torch.Tensor, or an array .* got list"),
        (lambda *arrays: solve(*map(TensorOfNobody, arrays)), "json, which has no from_dlpack"),
        (traced, "M has no values yet, it is traced"),
    ],
    ids=["torch", "jax", "init", "integers", "byte order", "objects", "dtypes", "list", "unknown", "traced"],
)
def test_what_does_not_fit_is_one_error(call, message):
    with pytest.raises(TypeError, match=message):
        call(*(np.array(a) for a in ARRAYS[:3]))


def test_importing_fgwot_imports_no_library_of_arrays():
    code = "import sys, torch; before = set(sys.modules); import fgwot; print(*set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "jax", "cupy", "scipy", "matplotlib"} & set(found)


def test_sets_of_arrays():
    rng = np.random.default_rng(0)
    clouds = [rng.random((n, 2)) for n in (5, 6)]
    structures = [np.linalg.norm(x[:, None] - x, axis=-1) for x in clouds]
    tensors = [[torch.from_numpy(a) for a in arrays] for arrays in (structures, clouds)]
    for solve_set in (fgwot.pairwise, functools.partial(fgwot.barycenter, n=4)):
        found, expected = solve_set(structures, clouds, epsilon=0.1), solve_set(*tensors, epsilon=0.1)
        assert isinstance(found.value, np.ndarray)
        np.testing.assert_array_equal(found.value, expected.value)

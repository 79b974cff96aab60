"""Every kernel against the four nested sums in float64, on a CUDA device or in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fgwot
from fgwot import reference
from fgwot.backend import backend
from fgwot.kernels.shapes import LARGE, MEDIUM, SMALL

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poison")]

LOSSES = ["abs", "huber", "square", "kl"]
REVERSED = {"kl": "kl_reversed"}
# Inputs are rounded before the reference sees them: what remains is the rounding of the sums, and of half results.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def random_inputs(seed, n, m, *batch, dtype=torch.float64, device):
    rng = np.random.default_rng(seed)
    shapes = (*batch, n, n), (*batch, m, m), (*batch, n, m), (*batch, n, m)
    tensors = [torch.from_numpy(rng.uniform(0.1, 3, shape)).to(device, dtype) for shape in shapes]
    tensors[2][..., n // 2, :] = 0  # a row without mass
    tensors[0][..., 0, 0] = tensors[1][..., 0, 0]  # a tie, where the derivative of abs is 0
    return tensors


def expected(C1, C2, W, T, loss):
    """Contraction and adjoint of one problem in float64."""
    C1, C2, W, T = (x.double().cpu() for x in (C1, C2, W, T))
    G = reference.tensor_term(C1.numpy(), C2.numpy(), T.numpy(), loss)
    slopes = fgwot.losses.BY_NAME[loss].da(C1[:, None, :, None], C2[None, :, None, :])
    return G, torch.einsum("ijkl,ij,kl->ik", slopes, W, T).numpy()


def check(C1, C2, T, W, loss, tile=None):
    from fgwot.kernels.adjoint import adjoint
    from fgwot.kernels.contraction import contraction

    G = contraction(C1, C2, T, loss, 1.0, tile)
    dC1 = adjoint(C1, C2, W, T, loss, 1.0, tile)
    assert (G.dtype, G.shape, dC1.dtype, dC1.shape) == (T.dtype, T.shape, C1.dtype, C1.shape)
    flat = [x.reshape(-1, *x.shape[-2:]) for x in (C1, C2, W, T, G, dC1)]
    for *inputs, one_G, one_dC1 in zip(*flat, strict=True):
        for actual, wanted in zip((one_G, one_dC1), expected(*inputs, loss), strict=True):
            scale = np.abs(wanted).max() + 1
            np.testing.assert_allclose(actual.double().cpu() / scale, wanted / scale, rtol=0, atol=TOLERANCE[T.dtype])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_each_loss_and_dtype(device, loss, dtype):
    check(*random_inputs(0, 5, 7, 3, dtype=dtype, device=device), loss)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (16, 4), (17, 3), (3, 17), (1, 33)])
@pytest.mark.parametrize("loss", ["abs", "huber"])
def test_edges_of_tiles(device, n, m, loss):
    check(*random_inputs(1, n, m, device=device, dtype=torch.float32), loss, SMALL)


@pytest.mark.sample
@pytest.mark.parametrize(("n", "m"), [(33, 3), (3, 33)])
def test_edges_of_medium_tiles(device, n, m):
    check(*random_inputs(1, n, m, device=device, dtype=torch.float32), "abs", MEDIUM)


@pytest.mark.parametrize(("n", "m"), [(65, 3), (3, 65)])
def test_large_tile(device, n, m):
    check(*random_inputs(2, n, m, device=device, dtype=torch.float32), "abs", LARGE)


@settings(max_examples=10)
@given(n=st.integers(1, 19), m=st.integers(1, 19), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_any_shape(device, n, m, batch, seed):
    check(*random_inputs(seed, n, m, batch, device=device), "huber")


@pytest.mark.parametrize("programs", [1, 3, 10**6])
def test_parts_do_not_change_the_sum(device, programs, monkeypatch):
    monkeypatch.setattr("fgwot.kernels.shapes.PROGRAMS", programs)
    check(*random_inputs(3, 7, 5, 2, device=device), "abs")


def test_delta_keeps_its_digits_in_float64(device):
    from fgwot.kernels.contraction import contraction

    C1, C2, T, _ = random_inputs(4, 5, 4, device=device)
    with backend("torch"):
        wanted = fgwot.tensor_term(C1, C2, T, fgwot.huber(0.3))
    torch.testing.assert_close(contraction(C1, C2, T, "huber", 0.3), wanted, rtol=1e-13, atol=0)


def test_masks_and_bounds(device, monkeypatch):
    """NaN all round what a kernel may read; marks all round what it may write."""
    from fgwot.kernels import adjoint, common, contraction

    guarded = []

    def surrounded(x, dtype):
        inner = common.packed(x, dtype)
        larger = inner.new_full((inner.shape[0], inner.shape[1] + 2, inner.shape[2]), torch.nan)
        larger[:, 1:-1, : x.shape[-1]] = inner[:, :, : x.shape[-1]]
        return larger[:, 1:-1]

    def marked(batch, parts, rows, columns, like):
        size = batch * parts * rows * columns
        buffer = torch.full((size + 2 * 4096,), 77.0, dtype=like.dtype, device=like.device)
        guarded.append(buffer)
        return buffer[4096:-4096].view(batch, parts, rows, columns)

    for module in (adjoint, contraction):
        monkeypatch.setattr(module, "packed", surrounded)
        monkeypatch.setattr(module, "partial_sums", marked)
    for n, m in [(17, 5), (5, 17), (16, 16)]:
        check(*random_inputs(5, n, m, 2, device=device), "abs", SMALL)
    assert len(guarded) == 6
    assert all((buffer[:4096] == 77).all() and (buffer[-4096:] == 77).all() for buffer in guarded)


@pytest.mark.sample
@pytest.mark.parametrize("loss", ["abs", fgwot.huber(0.7)], ids=["abs", "huber"])
def test_tensor_term_and_gradients_agree_with_torch(device, loss):
    C1, C2, T, W = random_inputs(6, 6, 5, 2, device=device)
    results = []
    for name in ("torch", "triton"):
        leaves = [x.clone().requires_grad_() for x in (C1[0], C2, T)]  # C1 is shared by the batch
        with backend(name):
            G = fgwot.tensor_term(*leaves, loss)
        results.append((G.detach(), *torch.autograd.grad((G * W).sum(), leaves)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.sample
def test_empty_problems(device):
    for shape in [(0, 3, 2), (2, 0, 3), (2, 3, 0)]:
        C1, C2, T = (
            torch.ones(shape[0], shape[1], shape[1]),
            torch.ones(shape[0], shape[2], shape[2]),
            torch.ones(shape),
        )
        leaves = [x.to(device).requires_grad_() for x in (C1, C2, T)]
        with backend("triton"):
            fgwot.tensor_term(*leaves, "abs").sum().backward()
        assert all((x.grad == 0).all() for x in leaves)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operators_pass_opcheck(device):
    C1, C2, T, W = random_inputs(7, 4, 3, 2, device=device)
    leaves = [x.requires_grad_() for x in (C1, C2, T)]
    torch.library.opcheck(torch.ops.fgwot.contraction, (*leaves, "huber", 0.5, True))
    detached = [x.detach() for x in (C1, C2, W, T)]
    torch.library.opcheck(torch.ops.fgwot.adjoint, (*detached, "huber", 0.5, True))
    with backend("triton"):
        assert torch.autograd.gradcheck(lambda *args: fgwot.tensor_term(*args, fgwot.huber(0.5)), leaves)


def test_same_bits_every_time(device):
    from fgwot.kernels.contraction import contraction

    C1, C2, T, _ = random_inputs(8, 9, 6, device=device, dtype=torch.float32)
    assert torch.equal(contraction(C1, C2, T, "abs"), contraction(C1, C2, T, "abs"))

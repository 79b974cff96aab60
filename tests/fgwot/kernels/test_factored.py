"""The factored contraction against dense float64 formulas, on a CUDA device or in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fgwot
from fgwot import reference
from fgwot.backend import backend
from fgwot.kernels.shapes import PRODUCT_TILES, ProductTile, product_tile_for, product_tiles

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poison", "bfloat16_products")]

EPS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-6, torch.bfloat16: 1e-6}
TINY = ProductTile(16, 16, 1)  # several tiles in a small problem


def random_inputs(seed, n, m, depth, *batch, dtype=torch.float64, device):
    rng = np.random.default_rng(seed)
    shapes = (*batch, n, depth), (*batch, m, depth), (*batch, n), (*batch, m), (*batch, n, m), batch, batch
    return [torch.from_numpy(np.asarray(rng.uniform(-1, 2, shape))).to(device, dtype) for shape in shapes]


def expected(W, H, rows, columns, M, linear, quadratic):
    W, H, rows, columns, M, linear, quadratic = (
        None if x is None else x.double() for x in (W, H, rows, columns, M, linear, quadratic)
    )
    bracket = -(W @ H.mT)
    if rows is not None:
        bracket = bracket + rows[..., :, None] + columns[..., None, :]
    result = quadratic[..., None, None] * bracket
    return result if M is None else result + linear[..., None, None] * M


def check(inputs, precision="ieee", tile=None):
    from fgwot.kernels.factored import factored

    W = inputs[0]
    actual, wanted = factored(*inputs, precision, tile), expected(*inputs)
    assert actual.dtype == (torch.float64 if W.dtype == torch.float64 else torch.float32)
    # A sum of k products carries an error of about sqrt(k) roundings of its terms.
    atol = EPS[W.dtype] * 8 * W.shape[-1] ** 0.5
    torch.testing.assert_close(actual.double(), wanted, rtol=EPS[W.dtype], atol=atol)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", [(5, 7, 7), (16, 16, 16), (33, 18, 31, 2)], ids=str)
def test_each_dtype(device, dtype, shape):
    check(random_inputs(0, *shape, dtype=dtype, device=device))


# The interpreter computes tf32x3 as plain float32: only a GPU tells how accurate it is.
@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize("side", [32, 64, 128])
def test_each_tile(device, side, precision):
    tile = next(t for t in PRODUCT_TILES[torch.float32] if t.side == side)
    check(random_inputs(1, side + 1, side - 1, 17, dtype=torch.float32, device=device), precision, tile)


@settings(max_examples=12)
@given(
    n=st.integers(1, 37),
    m=st.integers(1, 37),
    depth=st.integers(1, 37),
    batch=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_any_shape(device, n, m, depth, batch, seed):
    check(random_inputs(seed, n, m, depth, batch, device=device), tile=TINY)


@pytest.mark.parametrize("tiles", [(1, 1), (9, 2), (17, 1)])
def test_every_band_of_tiles_is_written(device, tiles):
    rows, columns = (16 * t - 1 for t in tiles)
    check(random_inputs(2, rows, columns, 3, device=device), tile=TINY)


@pytest.mark.sample
@pytest.mark.parametrize("left_out", [(2, 3), (4, 5), (2, 3, 4, 5)])
def test_terms_may_be_left_out(device, left_out):
    inputs = random_inputs(3, 6, 9, 5, 2, device=device)
    check([None if k in left_out else x for k, x in enumerate(inputs)])


def test_rows_apart_and_structures_shared(device):
    """Strides are taken as they come: columns of a wider array, one structure for a batch, a transposed structure."""
    W, H, *others = random_inputs(4, 6, 9, 5, 2, device=device)
    wide = torch.full((2, 6, 32), torch.nan, dtype=W.dtype, device=device)
    wide[..., 7:12] = W
    check([wide[..., 7:12], H[0].expand(2, -1, -1), *others])
    check([W, H.mT.contiguous().mT, *others])


@pytest.mark.parametrize("loss", ["square", "kl"])
@pytest.mark.parametrize("dtype", EPS)
def test_log_kernel_of_each_factored_loss(device, loss, dtype):
    """log K = -((1 - alpha) M + alpha L (x) T) / epsilon, against the four nested sums."""
    rng = np.random.default_rng(5)
    n, m, alpha, epsilon = 6, 5, 0.3, 0.5
    fs = fgwot.losses.BY_NAME[loss].factors
    T = rng.uniform(0.1, 1, (n, m))
    T[2] = 0  # a row without mass
    T, C1, C2, M = (
        torch.from_numpy(x).to(device, dtype)
        for x in (T / T.sum(), *(rng.uniform(0.1, 1, shape) for shape in ((n, n), (m, m), (n, m))))
    )
    rows, columns = fs.f1(C1) @ T.sum(1), fs.f2(C2) @ T.sum(0)
    linear, quadratic = (torch.tensor(-x / epsilon, device=device, dtype=torch.float64) for x in (1 - alpha, alpha))
    actual = torch.ops.fgwot.factored(fs.h1(C1) @ T, fs.h2(C2), rows, columns, M, linear, quadratic, "ieee")
    C1, C2, M, T = (x.double().cpu().numpy() for x in (C1, C2, M, T))
    wanted = -((1 - alpha) * M + alpha * reference.tensor_term(C1, C2, T, loss)) / epsilon
    # What torch computes in the inputs' own type before the kernel starts is rounded to that type.
    np.testing.assert_allclose(actual.cpu(), wanted, rtol=0, atol=max(1e-12, 8 * torch.finfo(dtype).eps))


@pytest.mark.sample
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_tensor_term_and_gradients_agree_with_torch(device, loss):
    rng = np.random.default_rng(6)
    C1, C2, T, W = (
        torch.from_numpy(rng.uniform(0.1, 1, s)).to(device) for s in ((6, 6), (2, 5, 5), (2, 6, 5), (2, 6, 5))
    )
    results = []
    for name in ("torch", "triton"):
        leaves = [x.clone().requires_grad_() for x in (C1, C2, T)]  # C1 is shared by the batch
        with backend(name):
            G = fgwot.tensor_term(*leaves, loss)
        first = torch.autograd.grad((G * W).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((x**2).sum() for x in first), leaves)
        results.append((G.detach(), *first, *second))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensor_term_keeps_half_precision(device, dtype):
    C, T = torch.rand(9, 9, device=device).to(dtype), torch.full((9, 9), 1 / 81, device=device, dtype=dtype)
    with backend("triton"):
        G = fgwot.tensor_term(C, C, T)
    assert G.dtype == dtype
    wanted = torch.from_numpy(reference.tensor_term(*(x.double().cpu().numpy() for x in (C, C, T))))
    torch.testing.assert_close(G.double().cpu(), wanted, rtol=0, atol=16 * torch.finfo(dtype).eps)


def test_empty_problems(device):
    with backend("triton"):
        for n, m, batch in [(0, 2, 3), (3, 0, 2), (3, 2, 0)]:
            shapes = (n, n), (m, m), (n, m)
            C1, C2, T = (torch.ones(batch, *s, device=device, requires_grad=True) for s in shapes)
            fgwot.tensor_term(C1, C2, T).sum().backward()
            assert all((x.grad == 0).all() for x in (C1, C2, T))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operator_passes_opcheck(device):
    leaves = [x.requires_grad_() for x in random_inputs(7, 4, 3, 5, 2, device=device)]
    torch.library.opcheck(torch.ops.fgwot.factored, (*leaves, "ieee"))
    assert torch.autograd.gradcheck(lambda *args: torch.ops.fgwot.factored(*args, "ieee"), leaves)
    fewer = [leaves[0], leaves[1], None, None, None, None, leaves[6]]
    torch.library.opcheck(torch.ops.fgwot.factored, (*fewer, "ieee"))
    assert torch.autograd.gradcheck(
        lambda W, H, scale: torch.ops.fgwot.factored(W, H, None, None, None, None, scale, "ieee"),
        (leaves[0], leaves[1], leaves[6]),
    )


def test_compiled_callers_keep_one_graph(device):
    def energy(C1, C2, plan):
        return (fgwot.tensor_term(C1, C2, plan) * plan).sum()

    leaves = [torch.rand(3, 3, dtype=torch.float64, device=device).requires_grad_() for _ in range(3)]
    with backend("triton"):
        compiled = torch.compile(energy, fullgraph=True, backend="aot_eager")
        actual, wanted = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, energy))
    for a, w in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a, w)


def test_tiles_follow_the_size():
    float32 = torch.float32
    assert product_tile_for(1, 20, 4000, float32, True).side == 32
    assert product_tile_for(1, 1000, 1000, float32, True).side == 64
    assert product_tile_for(1, 4000, 4000, float32, True).side == 128
    assert product_tile_for(1, 4000, 4000, float32, False).side == 64
    assert all(t.side <= 64 for t in product_tiles(torch.float64, True))

r"""The second matrix product of the factored contraction, and all that follows it."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels.common import accumulator, batch_stride, check_device, locate, problems, row_major
from fgwot.kernels.shapes import ProductTile, product_tile_for


@triton.jit(do_not_specialize=["n"])
def factored_kernel(
    W,
    H,
    rows,
    columns,
    M,
    linear,
    quadratic,
    out,
    n,
    m,
    depth,
    W_row,
    H_row,
    M_row,
    W_batch,
    H_batch,
    M_batch,
    SIDE: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    MARGINALS: tl.constexpr,
    LINEAR: tl.constexpr,
):
    r"""out_ij = linear M_ij + quadratic (rows_i + columns_j - sum_k W_ik H_jk).

    With W = h1(C1) T, H = h2(C2), rows = f1(C1) p and columns = f2(C2) q the bracket is L (x) T; with
    linear = -(1 - alpha) / epsilon and quadratic = -alpha / epsilon the result is log K. LINEAR and MARGINALS say which
    of the terms there are. Structures without symmetry need two products: [W, W'] and [H, H'] side by side.

    Tiles
        A program owns a SIDE x SIDE block (i, j) in registers and runs over k in steps of DEPTH. H is read along its
        rows. Programs go through the blocks in bands of 8 rows, so that those at work together share H in the L2 cache.
    Epilogue
        Scaling, marginal terms and linear cost join the block in registers: out is written once, M is read once, and
        no other n x m array is touched after W.
    Cost
        2 n m k operations for the product and 5 n m for the epilogue; from memory, at least n k + m k + 2 n m values.

    References
    ----------
    Peyré, Cuturi and Solomon (ICML 2016), proposition 1. The order of the programs is that of Triton's tutorial on
    matrix multiplication.
    """
    tiles_row, tiles_column = tl.cdiv(n, SIDE), tl.cdiv(m, SIDE)
    row, column, _, problem = locate(tiles_row, tiles_column, 1)
    row, column = tl.swizzle2d(row, column, tiles_row, tiles_column, 8)
    tile, step = tl.arange(0, SIDE), tl.arange(0, DEPTH)
    i, j = row * SIDE + tile, column * SIDE + tile
    # Offsets inside a tile stay 32 bits wide and bases 64. Rows beyond the last one repeat it: no mask on them.
    W += problem * W_batch + (row * SIDE).to(tl.int64) * W_row
    H += problem * H_batch + (column * SIDE).to(tl.int64) * H_row
    W_tile = W + tl.minimum(tile, n - 1 - row * SIDE)[:, None] * W_row + step[None, :]
    H_tile = H + tl.minimum(tile, m - 1 - column * SIDE)[:, None] * H_row + step[None, :]
    total = tl.zeros([SIDE, SIDE], out.dtype.element_ty)
    for k in range(0, depth, DEPTH):
        w = tl.load(W_tile, mask=(step < depth - k)[None, :], other=0)
        h = tl.load(H_tile, mask=(step < depth - k)[None, :], other=0)
        total = tl.dot(w, h.T, total, input_precision=PRECISION, out_dtype=total.dtype)
        W_tile += DEPTH
        H_tile += DEPTH
    total = -total
    if MARGINALS:
        total += tl.load(rows + problem * n + i, mask=i < n, other=0).to(total.dtype)[:, None]
        total += tl.load(columns + problem * m + j, mask=j < m, other=0).to(total.dtype)[None, :]
    total *= tl.load(quadratic + problem)
    mask = (i < n)[:, None] & (j < m)[None, :]
    if LINEAR:
        M += problem * M_batch + (row * SIDE).to(tl.int64) * M_row + column * SIDE
        cost = tl.load(M + tile[:, None] * M_row + tile[None, :], mask=mask, other=0)
        total += tl.load(linear + problem) * cost.to(total.dtype)
    out += problem * n * m + (row * SIDE).to(tl.int64) * m + column * SIDE
    tl.store(out + tile[:, None] * m + tile[None, :], total, mask=mask)


def factored(
    W: Tensor,
    H: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    M: Tensor | None,
    linear: Tensor | None,
    quadratic: Tensor,
    precision: str = "ieee",
    tile: ProductTile | None = None,
) -> Tensor:
    """Launch `factored_kernel` for W (..., n, k), H (..., m, k), rows (..., n), columns (..., m), M (..., n, m).

    `linear` and `quadratic` (...) hold one number per problem. Rows and columns come together or not at all, and so do
    M and linear. The result has the type of the sums: float64 for float64, float32 for all others.
    """
    check_device(W)
    (n, depth), m = W.shape[-2:], H.shape[-2]
    batch, dtype = problems(W.shape), accumulator(W.dtype)
    out = torch.empty(*W.shape[:-1], m, dtype=dtype, device=W.device)
    if out.numel() == 0:
        return out
    W_, H_, M_ = row_major(W), row_major(H), None if M is None else row_major(M)
    # Triton specialises on strides of multiples of 16 values, and with them on whole vectors per load.
    aligned = m % 16 == depth % 16 == W_.stride(1) % 16 == H_.stride(1) % 16 == 0
    tile = tile or product_tile_for(batch, n, m, W.dtype, aligned)
    # An argument that no variant of the kernel reads is a null pointer.
    p, q = (None if x is None else x.reshape(batch, -1).contiguous() for x in (rows, columns))
    scales = (None if x is None else x.to(dtype).reshape(batch).contiguous() for x in (linear, quadratic))
    factored_kernel[(triton.cdiv(n, tile.side) * triton.cdiv(m, tile.side) * batch,)](
        W_,
        H_,
        p,
        q,
        M_,
        *scales,
        out,
        n,
        m,
        depth,
        W_.stride(1),
        H_.stride(1),
        0 if M_ is None else M_.stride(1),
        batch_stride(W_),
        batch_stride(H_),
        0 if M_ is None else batch_stride(M_),
        SIDE=tile.side,
        DEPTH=tile.depth,
        PRECISION=precision,
        MARGINALS=rows is not None,
        LINEAR=M is not None,
        **tile.options,
    )
    return out

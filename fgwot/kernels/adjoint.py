r"""The gradient of <W, L (x) T> in one structure."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels.common import accumulator, batch_stride, check_device, locate, packed, partial_sums, problems, slope
from fgwot.kernels.shapes import Tile, splits, tile_for


@triton.jit(do_not_specialize=["n", "m", "parts", "length"])
def adjoint_kernel(
    C1,
    C2,
    Wt,
    Tt,
    out,
    delta,
    n,
    m,
    C1_row,
    C2_row,
    W_row,
    T_row,
    C1_batch,
    C2_batch,
    W_batch,
    T_batch,
    parts,
    length,
    LOSS: tl.constexpr,
    SIDE: tl.constexpr,
    UNROLL: tl.constexpr,
):
    r"""out_ik = sum_jl dL/da(C1_ik, C2_jl) W_ij T_kl, over one part of the j.

    Tiles
        A program owns a SIDE x SIDE block (i, k), and keeps its C1 in registers. For each j it runs over l in steps of
        UNROLL: the scalar C2_jl and column l of T give SIDE^2 terms. The sum over l is multiplied by column j of W
        once, as it joins the sum over j. W and T come transposed, so their columns are contiguous.
    Parts
        With few tiles the j are cut into `parts`, one program and one slice of `out` each; the launcher adds the
        slices in a fixed order.
    Cost
        n^2 m^2 terms, of 4 arithmetic instructions (abs, huber); from the caches, m^2 (SIDE + 1) + m SIDE values per
        tile; from memory, at least (1 + parts) n^2 + m^2 + 2 n m values.

    References
    ----------
    Differentiation of `contraction_kernel`; multiplying by W after the sum over l is this project's.
    """
    row, column, part, problem = locate(tl.cdiv(n, SIDE), tl.cdiv(n, SIDE), parts)
    # Offsets inside a tile stay 32 bits wide and bases 64: see the contraction.
    tile = tl.arange(0, SIDE)
    i = row * SIDE + tile
    k = column * SIDE + tile
    delta = tl.load(delta)
    C2_step, W_step, T_step = C2_row.to(tl.int64), W_row.to(tl.int64), T_row.to(tl.int64)
    mask = (i < n)[:, None] & (k < n)[None, :]
    C1 += problem * C1_batch + (row * SIDE).to(tl.int64) * C1_row + column * SIDE
    C2 += problem * C2_batch
    Wt += problem * W_batch
    Tt += problem * T_batch
    a = tl.load(C1 + tile[:, None] * C1_row + tile[None, :], mask=mask, other=0)
    total = tl.zeros([SIDE, SIDE], out.dtype.element_ty)
    for j in range(part * length, min(part * length + length, m)):
        C2_j = C2 + j * C2_step
        T_l = Tt + k  # carried, as in the contraction
        inner = tl.zeros_like(total)
        for start in range(0, m, UNROLL):
            for step in tl.static_range(UNROLL):
                l = start + step  # noqa: E741
                b = tl.load(C2_j + l, mask=l < m, other=0)
                t = tl.load(T_l, mask=(l < m) & (k < T_row), other=0)
                inner += slope(a, b, delta, LOSS) * t[None, :]
                T_l += T_step
        w = tl.load(Wt + j * W_step + i, mask=i < W_row, other=0)
        total += w[:, None] * inner
    out += (problem * parts + part) * n * n + (row * SIDE).to(tl.int64) * n + column * SIDE
    tl.store(out + tile[:, None] * n + tile[None, :], total, mask=mask)


def adjoint(
    C1: Tensor, C2: Tensor, W: Tensor, T: Tensor, loss: str, delta: float = 0.0, tile: Tile | None = None
) -> Tensor:
    """Launch `adjoint_kernel` for C1 (..., n, n), C2 (..., m, m), W and T (..., n, m) of one batch shape.

    The gradient in C2 is that of the exchanged problem: C2, C1, W.mT, T.mT and the loss L(b, a).
    """
    check_device(C1)
    n, m = T.shape[-2:]
    batch = problems(T.shape)
    if T.numel() == 0:
        return C1.new_zeros(C1.shape)
    dtype = accumulator(C1.dtype)
    tile = tile or tile_for(n, n, dtype)
    C1_, C2_, Wt, Tt = packed(C1, dtype), packed(C2, dtype), packed(W.mT, dtype), packed(T.mT, dtype)
    programs = triton.cdiv(n, tile.side) ** 2 * batch
    parts, length = splits(m, programs)
    out = partial_sums(batch, parts, n, n, like=C1_)
    adjoint_kernel[(programs * parts,)](
        C1_,
        C2_,
        Wt,
        Tt,
        out,
        # A scalar argument would reach the kernel rounded to float32.
        torch.full((1,), delta, dtype=dtype, device=C1.device),
        n,
        m,
        C1_.stride(1),
        C2_.stride(1),
        Wt.stride(1),
        Tt.stride(1),
        batch_stride(C1_),
        batch_stride(C2_),
        batch_stride(Wt),
        batch_stride(Tt),
        parts,
        length,
        LOSS=loss,
        SIDE=tile.side,
        UNROLL=tile.unroll,
        **tile.options,
    )
    return out.sum(1).to(C1.dtype).reshape(C1.shape)

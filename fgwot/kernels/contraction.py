r"""The quartic contraction, summed directly."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels.common import accumulator, batch_stride, check_device, locate, packed, partial_sums, problems, value
from fgwot.kernels.shapes import Tile, splits, tile_for


@triton.jit(do_not_specialize=["n", "m", "parts", "length"])
def contraction_kernel(
    C1t,
    C2t,
    T,
    out,
    delta,
    n,
    m,
    C1_row,
    C2_row,
    T_row,
    C1_batch,
    C2_batch,
    T_batch,
    parts,
    length,
    LOSS: tl.constexpr,
    SIDE: tl.constexpr,
    UNROLL: tl.constexpr,
):
    r"""out_ij = sum_kl L(C1_ik, C2_jl) T_kl, over one part of the k.

    Tiles
        A program owns a SIDE x SIDE block (i, j) in registers. For each k it reads column k of C1 once, and runs over
        l in steps of UNROLL: column l of C2 and the scalar T_kl give SIDE^2 terms. The structures come transposed, so
        both columns are contiguous. The sum over l is closed before it joins the sum over k: rounding then grows with
        n + m instead of n m.
    Parts
        With few tiles the k are cut into `parts`, one program and one slice of `out` each; the launcher adds the
        slices in a fixed order.
    Cost
        n^2 m^2 terms, of 2 (abs) or 5 (huber) arithmetic instructions; from the caches, n m (2 SIDE + 1) values per
        tile; from memory, at least n^2 + m^2 + (1 + parts) n m values.

    References
    ----------
    The two-dimensional accumulator with an unrolled scalar sum is the fastest of the formulations compared in this
    project by their instruction counts; the contraction is that of Peyré, Cuturi and Solomon (ICML 2016), equation 5.
    """
    row, column, part, problem = locate(tl.cdiv(n, SIDE), tl.cdiv(m, SIDE), parts)
    # Offsets inside a tile stay 32 bits wide and bases 64: wide offsets for a whole tile would cost 60 registers.
    tile = tl.arange(0, SIDE)
    j = column * SIDE + tile
    delta = tl.load(delta)
    C1_step, C2_step, T_step = C1_row.to(tl.int64), C2_row.to(tl.int64), T_row.to(tl.int64)
    C1t += problem * C1_batch + row * SIDE
    C2t += problem * C2_batch
    T += problem * T_batch
    total = tl.zeros([SIDE, SIDE], out.dtype.element_ty)
    for k in range(part * length, min(part * length + length, n)):
        a = tl.load(C1t + k * C1_step + tile, mask=tile < C1_row - row * SIDE, other=0)
        T_k = T + k * T_step
        C2_l = C2t + j  # carried: a product per column would take two instructions more
        inner = tl.zeros_like(total)
        for start in range(0, m, UNROLL):
            for step in tl.static_range(UNROLL):
                l = start + step  # noqa: E741
                b = tl.load(C2_l, mask=(l < m) & (j < C2_row), other=0)
                t = tl.load(T_k + l, mask=l < m, other=0)
                inner += value(a[:, None], b[None, :], delta, LOSS) * t
                C2_l += C2_step
        total += inner
    out += (problem * parts + part) * n * m + (row * SIDE).to(tl.int64) * m + column * SIDE
    mask = (tile < n - row * SIDE)[:, None] & (tile < m - column * SIDE)[None, :]
    tl.store(out + tile[:, None] * m + tile[None, :], total, mask=mask)


def contraction(C1: Tensor, C2: Tensor, T: Tensor, loss: str, delta: float = 0.0, tile: Tile | None = None) -> Tensor:
    """Launch `contraction_kernel` for C1 (..., n, n), C2 (..., m, m) and T (..., n, m) of one batch shape."""
    check_device(T)
    n, m = T.shape[-2:]
    batch = problems(T.shape)
    if T.numel() == 0:
        return T.new_zeros(T.shape)
    dtype = accumulator(T.dtype)
    tile = tile or tile_for(n, m, dtype)
    C1t, C2t, T_ = packed(C1.mT, dtype), packed(C2.mT, dtype), packed(T, dtype)
    programs = triton.cdiv(n, tile.side) * triton.cdiv(m, tile.side) * batch
    parts, length = splits(n, programs)
    out = partial_sums(batch, parts, n, m, like=T_)
    contraction_kernel[(programs * parts,)](
        C1t,
        C2t,
        T_,
        out,
        # A scalar argument would reach the kernel rounded to float32.
        torch.full((1,), delta, dtype=dtype, device=T.device),
        n,
        m,
        C1t.stride(1),
        C2t.stride(1),
        T_.stride(1),
        batch_stride(C1t),
        batch_stride(C2t),
        batch_stride(T_),
        parts,
        length,
        LOSS=loss,
        SIDE=tile.side,
        UNROLL=tile.unroll,
        **tile.options,
    )
    return out.sum(1).to(T.dtype).reshape(T.shape)

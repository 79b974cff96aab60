"""Triton kernels. Nothing here is imported before a kernel is first needed, so that triton stays optional.

- `contraction`: sum_kl L(C1_ik, C2_jl) T_kl, summed directly.
- `adjoint`: its gradient in C1, and with the roles of the structures exchanged in C2.
- `sinkhorn`: sweeps over rows and columns of large problems.
- `solve`, `solve_adjoint`: small problems as a whole, and the gradients of their values; `pack`: what the two share.
- `shapes`: tile shapes by size, and the list of variants that are compiled ahead of time.
- `common`: the ground losses, the order of the programs, and the buffers that the launchers share.
- `resources`: shared memory and spills of each variant, compiled without a GPU.
"""

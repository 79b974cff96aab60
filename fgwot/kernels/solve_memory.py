"""Where the whole solve keeps what between its phases: in memory that the caches hold.

Matrices that are live across a phase that does not need them would cost registers, and with them programs on a
multiprocessor.
"""

import triton.language as tl

# SIDE x SIDE values each. Of the present plan T: X, of which it is the plan, D = C1 T C2' + C1' T C2, and G(T) - X;
# of the plan on trial: the same X and D, which before D is computed is room for what is on the way to it.
(
    SYMMETRIC1, SKEW1, SYMMETRIC2, SKEW2, LINEAR, PLAN, PRODUCT, X, RESIDUAL, TRIAL, TRIAL_X, TRIAL_PRODUCT, NEWTON,
    VECTORS,
) = map(tl.constexpr, range(14))  # fmt: skip
SLOTS = tl.constexpr(14)
# Rows of VECTORS: marginals, what only shifts the potentials, potentials of the plan on trial, g of the present one,
# and the g from where the next inner problem is solved.
ROW_MASS, COLUMN_MASS, SHIFT1, SHIFT2, F, G, PRESENT_G, WARM = map(tl.constexpr, range(8))

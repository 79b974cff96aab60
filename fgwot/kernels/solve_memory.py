"""Where the whole solve keeps what between its phases: in memory that the caches hold.

What is live across a phase that does not need it would cost registers, and with them programs on a multiprocessor.
"""

import triton.language as tl

# SIDE x SIDE values each.
SYMMETRIC1, SKEW1, SYMMETRIC2, SKEW2, LINEAR, PLAN, PRODUCT, X, TRIAL, TRIAL_X, HALF, VECTORS, NUMBERS = map(
    tl.constexpr, range(13)
)
SLOTS = tl.constexpr(13)
# Rows of VECTORS: marginals, what only shifts the potentials, potentials of the step after a plan and of a warm
# start, and the g where the next sweeps begin.
ROW_MASS, COLUMN_MASS, SHIFT1, SHIFT2, F, G, WARM, POTENTIAL = map(tl.constexpr, range(8))
# Entries of NUMBERS. Of the problem:
WEIGHT, MASS, VALID = map(tl.constexpr, range(3))
# of the present plan and the search for the next one (settle: that step only meets the marginals):
ACTIVE, STATUS, STEPS, ERROR, MOVED, OBJECTIVE, NOISE, THETA, CHANGE, BEST, IDLE, SETTLE = map(
    tl.constexpr, range(3, 15)
)
# and of the step being made.
SIZE, INNER, ENDING, TRIAL_ERROR, DUAL = map(tl.constexpr, range(15, 20))

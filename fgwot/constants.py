"""Numbers that the iterations share, in torch, Numba and Triton."""

COARSEST = 1e-3  # inner tolerance far from an answer: loose first steps could change the basin
PATIENCE = 60  # steps without progress in residual or objective before a problem counts as stalled
SMALLEST_THETA = 2.0**-24  # step before it does
LARGEST_TOLERANCE = 1e-3  # rounding above it is no convergence
ROUNDINGS = 8  # of two plans, their difference and their column sums, in a residual

MAX_STEPS = 200  # undamped, before a problem is given up
SHORT = 0.3  # change from which steps may be extrapolated
HORIZON = 8  # undamped steps to go, by their present rate, from which they are
FURTHEST = 20.0  # extrapolation, in steps

BACKTRACKS = 12  # thirds of a Newton step in its line search
LONGEST_STEP = 30.0  # of a potential, before the line search

POOR = 0.3  # contraction of the error by a chord step that calls for a fresh matrix
FAILED = 0.9  # contraction that says that a step did nothing
LONGEST = 3.0  # chord step of a potential

"""Numbers that more than one iteration uses, in torch, Numba and Triton."""

SHIFT = 1e-15  # inside the logarithms of the kl loss
BLOCK = 1 << 22  # entries of the largest temporary array where a sum could be over many more

COARSEST = 1e-3  # inner tolerance far from an answer: loose first steps could change the basin
LOOSE = 0.02  # inner tolerance nearer to it, in changes
TIGHT = 0.05  # once it is near, in outer tolerances
TIGHTEST = 1e-3  # the same where objectives of nearly equal plans are compared
PATIENCE = 60  # steps without progress in residual or objective before a problem counts as stalled
SMALLEST_THETA = 2.0**-24  # step before it does
LARGEST_TOLERANCE = 1e-3  # rounding above it is no convergence
ROUNDINGS = 8  # of two plans, their difference and their column sums, in a residual

MAX_STEPS = 200  # undamped, before a problem is given up
SHORT = 0.3  # change from which steps may be extrapolated
HORIZON = 8  # undamped steps to go, by their present rate, from which they are
FURTHEST = 20.0  # extrapolation, in steps

LONGEST_THETA = 64.0  # proximal step, in those of epsilon
STEADY = 0.1  # change from which proximal steps may be longer than epsilon's
DEEPEST = 80.0  # -log of the smallest entry of a proximal plan; what is smaller could hardly come back
LIGHTEST = 80.0  # -log of the least part of a plan that is kept where it is much too heavy
BISECTIONS = 20  # by which that part is searched for

RIDGE = 64  # roundings that the diagonal of a Newton matrix, scaled to one, is enlarged by
BACKTRACKS = 12  # thirds of a Newton step in its line search
LONGEST_STEP = 30.0  # of a potential, before the line search
FIRST_SWEEPS = 8  # of a priced or partial problem, before Newton steps, which are dearer
BOUNDED_STEPS = 40  # of a partial problem, before annealing

HOTTEST = 5.0  # range of the costs at the first temperature of an annealing
ROUGH = 1e-2  # tolerance before the last one
COOLING = 4.0  # factor between temperatures
ANNEALED_STEPS = 60  # largest number of steps at one of them

POOR = 0.3  # contraction of the error by a chord step that calls for a fresh matrix
FAILED = 0.9  # contraction that says that a step did nothing
LONGEST = 3.0  # chord step of a potential

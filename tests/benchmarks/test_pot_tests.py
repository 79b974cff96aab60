"""The stand-in for POT's conftest and torch branch, on tests in the style of POT's."""

import re
import subprocess
import sys

GROMOV = """
import numpy as np, ot, pytest

@pytest.skip_backend("jax", reason="none")
def test_entropic_fgw(nx):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(4, 2))
    arrays = [ot.dist(a, b) / 10 for a, b in ((x, y), (x, x), (y, y))]
    options = {"epsilon": 0.1, "max_iter": 500, "tol": 1e-11, "log": True}
    tensors = nx.from_numpy(*arrays)
    for name in ("entropic_fused_gromov_wasserstein", "entropic_fused_gromov_wasserstein2"):
        theirs, _ = getattr(ot.gromov, name)(*arrays, **options)
        ours, log = getattr(ot.gromov, name)(*tensors, **options)
        assert type(ours).__module__ == "torch" and "T" in log
        np.testing.assert_allclose(nx.to_numpy(ours), theirs, atol=1e-6)
    with pytest.raises(ValueError):
        ot.gromov.entropic_gromov_wasserstein(*tensors[1:], loss_fun="unknown")

def test_arrays_only():
    ot.gromov.entropic_gromov_wasserstein(np.eye(2), np.eye(2))

def test_of_something_else(nx):
    assert False
"""

RELAXED = """
import numpy as np, ot, pytest

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 2)), RNG.normal(size=(4, 2))
M, C1, C2 = (ot.dist(a, b) / 10 for a, b in ((X, Y), (X, X), (Y, Y)))
P, Q, SEVERAL = RNG.dirichlet(np.ones(5)), 1.5 * RNG.dirichlet(np.ones(4)), RNG.uniform(1, 2, size=(4, 3))

def both(nx, solve, *arrays, atol=1e-6, **options):
    theirs, ours = solve(*arrays, **options), solve(*nx.from_numpy(*arrays), **options)
    assert type(ours).__module__ == "torch"
    np.testing.assert_allclose(nx.to_numpy(ours), theirs, atol=atol)

def test_semirelaxed(nx):
    options = {"epsilon": 0.1, "max_iter": 10**5, "tol": 1e-13}
    both(nx, ot.gromov.entropic_semirelaxed_fused_gromov_wasserstein, M, C1, C2, P, **options)
    both(nx, ot.gromov.entropic_semirelaxed_fused_gromov_wasserstein2, M, C1, C2, P, **options)

def test_partial(nx):
    both(nx, ot.gromov.entropic_partial_gromov_wasserstein, C1, C2, P, Q, reg=1.0, m=0.7)
    both(nx, ot.gromov.entropic_partial_gromov_wasserstein2, C1, C2, P, Q, reg=1.0)
    both(nx, ot.partial.entropic_partial_wasserstein, P, Q, M, reg=0.1, m=0.7)

@pytest.mark.parametrize("reg_type", ["entropy", "kl"])
@pytest.mark.parametrize("reg_m", [0.5, (0.5, float("inf")), [2.0, 0.5]])
def test_unbalanced(nx, reg_type, reg_m):
    options = {"reg": 0.1, "reg_m": reg_m, "reg_type": reg_type, "stopThr": 1e-12}
    both(nx, ot.unbalanced.sinkhorn_unbalanced, P, Q, M, **options)
    both(nx, ot.unbalanced.sinkhorn_unbalanced2, P, Q, M, **options)
    both(nx, ot.unbalanced.sinkhorn_unbalanced2, P, SEVERAL, M, **options)
    for name, value in (("method", "none"), ("reg_type", "l2"), ("returnCost", "none")):
        with pytest.raises(ValueError, match="none|l2"):
            ot.unbalanced.sinkhorn_unbalanced2(*nx.from_numpy(P, Q, M), **options | {name: value})

def test_several_columns_come_back_as_in_pot(nx):
    options = {"reg": 0.1, "reg_m": 0.5, "log": True, "stopThr": 1e-12}
    theirs, log = ot.unbalanced.sinkhorn_unbalanced(P, SEVERAL, M, **options)
    ours, found = ot.unbalanced.sinkhorn_unbalanced(*nx.from_numpy(P, SEVERAL, M), **options)
    np.testing.assert_allclose(nx.to_numpy(ours), theirs, atol=1e-6)
    for name in ("logu", "logv"):
        np.testing.assert_allclose(nx.to_numpy(found[name]), log[name], atol=1e-5)

def test_barycenters(nx):
    solve, several = ot.gromov.entropic_gromov_barycenters, nx.from_numpy(C1, C2)
    options = {"epsilon": 0.02, "random_state": 0, "tol": 1e-9}
    np.testing.assert_allclose(nx.to_numpy(solve(3, several, **options)), solve(3, [C1, C2], **options), atol=1e-4)
    solve, features = ot.gromov.entropic_fused_gromov_barycenters, nx.from_numpy(X, Y)
    kept = nx.from_numpy(np.ones((3, 3)) - np.eye(3))
    _, C, log = solve(3, features, several, init_C=kept, fixed_structure=True, log=True)
    assert (C == kept).all() and log["T"].shape == (2, 3, 5)
    with pytest.raises(ot.utils.UndefinedParameter):
        solve(3, features, several, fixed_features=True)
"""


def test_tensors_go_to_fgwot_and_arrays_to_pot(tmp_path):
    paths = [tmp_path / "test_gromov.py", tmp_path / "relaxed" / "test_gromov.py"]
    for path, text in zip(paths, (GROMOV, RELAXED), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.pot_tests", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search("^11 passed, 1 skipped", done.stdout, re.MULTILINE), done.stdout
    assert "arrays only" in done.stdout

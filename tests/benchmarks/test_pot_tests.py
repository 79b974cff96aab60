"""The stand-in for POT's conftest and torch branch, on a test in the style of POT's."""

import subprocess
import sys

TEST = """
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
"""


def test_tensors_go_to_fgwot_and_arrays_to_pot(tmp_path):
    (tmp_path / "test_gromov.py").write_text(TEST, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.pot_tests", str(tmp_path / "test_gromov.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout

"""The wheel works where torch is the only thing installed, Numba missing too."""

import subprocess
import sys

import pytest

# Runs with the wheel first on the path, and hides Numba, which not every platform has, and all that kmat adds.
PROGRAM = """
import importlib.machinery, sys

class Finder(importlib.machinery.PathFinder):
    hidden = {"open_clip", "timm", "transformers", "safetensors", "tyro", "rich", "PIL", "sklearn", "matplotlib"}
    hidden |= {"numba", "llvmlite"}
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in cls.hidden else super().find_spec(name, path, target)

sys.meta_path = [f for f in sys.meta_path if f is not importlib.machinery.PathFinder] + [Finder]
sys.path.insert(0, sys.argv[1])
import torch, fgwot
assert fgwot.__file__.startswith(sys.argv[1]), fgwot.__file__
x = torch.tensor([[0.0], [1.0], [3.0]])
C = torch.cdist(x, x)
print(fgwot.fused_gromov_wasserstein(C, C, C, epsilon=0.1).plan.argmax(1).tolist())
print(fgwot.explain(C, C, C, epsilon=0.1).declined["numba"])
try:
    import kmat
except ImportError as error:
    print(error)
sys.argv[0] = "/usr/bin/kmat"
try:
    import kmat
except SystemExit as error:
    print(error)
"""


@pytest.mark.slow
def test_wheel_solves_with_torch_alone_and_kmat_says_what_it_needs(tmp_path):
    root = __file__.rsplit("/tests/", 1)[0]
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, root]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 28e6  # four embedded tasks: frozen images, and weights of twelve tiny models
    run = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, wheel], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    plan, reason, message, said = run.stdout.splitlines()
    assert plan == "[0, 1, 2]"
    assert reason == "No module named 'numba'"
    assert message.endswith("pip install 'fgwot[kmat]'")
    assert said == f"error: {message}", "the command says it without a traceback"

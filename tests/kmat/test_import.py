import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_its_extra_kmat_says_how_to_install_it():
    hidden = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in ('open_clip', 'tyro') else real(name, package)\n"
        "import kmat"
    )
    last = run(hidden).stderr.strip().splitlines()[-1]
    assert last == "ImportError: kmat needs open_clip, tyro: pip install 'fgwot[kmat]'"


def test_importing_kmat_is_light():
    """`import kmat` alone must not load torch; only its parts do."""
    assert run("import sys, kmat; assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)").returncode == 0


def test_module_is_a_command():
    found = subprocess.run([sys.executable, "-m", "kmat", "--help"], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "demo" in found.stdout

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import kmat


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


def test_rooms_import_one_way():
    """A module of the top level is a room of its own; a circle raises CycleError."""
    package = Path(kmat.__file__).parent
    order = graphlib.TopologicalSorter[str]()
    for file in package.rglob("*.py"):
        room, *rest = file.relative_to(package).with_suffix("").parts
        if room == "__init__" and not rest:
            continue  # it offers what the api has, when that is asked for
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kmat":
                below = [node.module.split(".")[1]] if "." in node.module else [each.name for each in node.names]
                order.add(room, *(name for name in below if name != room))
    assert list(order.static_order())

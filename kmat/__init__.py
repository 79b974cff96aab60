"""K-MaT prompt learning for vision-language models, trained through :mod:`fgwot`.

``kmat.load_task``, ``kmat.task_from_arrays``, ``kmat.fit``, ``kmat.load_run`` and ``kmat.METHODS`` are for use from
Python; they are imported when they are first asked for.
"""

import sys as _sys
from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

_needed = ("numpy", "open_clip", "PIL", "rich", "safetensors", "timm", "transformers", "tyro", "matplotlib")
if _missing := [name for name in _needed if _find_spec(name) is None]:
    _message = f"kmat needs {', '.join(_missing)}: pip install 'fgwot[kmat]'"
    if _Path(_sys.argv[0]).stem == "kmat":  # the command, for whom a traceback says nothing more
        raise SystemExit(f"error: {_message}")
    raise ImportError(_message)

_OFFERED = {"METHODS", "Run", "fit", "load_run", "load_task", "task_from_arrays"}


def __getattr__(name: str) -> object:
    if name not in _OFFERED:
        raise AttributeError(f"module 'kmat' has no attribute {name!r}")
    from kmat import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(_OFFERED)

"""K-MaT prompt learning for vision-language models, trained through :mod:`fgwot`."""

import sys as _sys
from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

_needed = ("numpy", "open_clip", "PIL", "rich", "safetensors", "timm", "transformers", "tyro", "matplotlib")
if _missing := [name for name in _needed if _find_spec(name) is None]:
    _message = f"kmat needs {', '.join(_missing)}: pip install 'fgwot[kmat]'"
    if _Path(_sys.argv[0]).stem == "kmat":  # the command, for whom a traceback says nothing more
        raise SystemExit(f"error: {_message}")
    raise ImportError(_message)

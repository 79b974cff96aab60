"""K-MaT prompt learning for vision-language models, trained through :mod:`fgwot`."""

from importlib.util import find_spec as _find_spec

_needed = ("numpy", "open_clip", "PIL", "rich", "safetensors", "timm", "transformers", "tyro", "matplotlib")
if _missing := [name for name in _needed if _find_spec(name) is None]:
    raise ImportError(f"kmat needs {', '.join(_missing)}: pip install 'fgwot[kmat]'")

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "fgwot and kmat"
author = "The fgwot and kmat developers"
copyright = f"2026 {author}"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "mathml",
]
html_math_renderer = "mathml"
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
exclude_patterns = ["_build", "gallery"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib", "gallery_style.neutral"),
    "capture_repr": (),
    "remove_config_comments": True,
    "show_memory": False,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,  # a page with scripts from the network
}

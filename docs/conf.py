import matplotlib as mpl

project = "fgwot and kmat"
author = "The fgwot and kmat developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
exclude_patterns = ["_build", "gallery"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False


def neutral(*_):
    """Pictures that read on light and on dark pages."""
    grey = "#7d858f"
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor")
    transparent = {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none"}
    mpl.rcParams.update(dict.fromkeys(names, grey) | transparent | {"font.size": 10, "axes.titlesize": 11})


sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib", neutral),
    "matplotlib_animations": False,
    "image_scrapers": ("matplotlib",),
    "capture_repr": (),
    "remove_config_comments": True,
    "show_memory": False,
    "plot_gallery": True,
    "download_all_examples": False,
    "show_signature": False,
    "within_subsection_order": "FileNameSortKey",
    "min_reported_time": 0,
}

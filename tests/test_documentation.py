"""Python blocks of the README and the guides run as they stand."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import fgwot
import fgwot.nn
import fgwot.plot

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"clouds.md"}  # with fewer points, by tests/fgwot/test_streamed.py
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in ELSEWHERE and BLOCK.search(p.read_text())], ids=lambda p: p.name
)
def test_python_blocks_run(page):
    """Blocks of one page share their names, as a reader would type them."""
    names = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, page.name, "exec"), names)  # noqa: S102 - our own documentation


def test_what_the_page_of_wishes_names_is_there():
    """Functions, attributes, methods, arguments, pages, and places on the page itself."""
    text = (ROOT / "docs" / "wishes.md").read_text()
    names = re.findall(r"`(fgwot\.[\w.]+|(?:Solution|LazyPlan)\.\w+)", text)
    assert len(names) > 20
    for name in names:
        found = fgwot
        for part in name.removeprefix("fgwot.").split("."):
            known = {field.name for field in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else ()
            found = None if part in known else getattr(found, part)
    for name in re.findall(r"`(?:[^`(]*\(\.\.\., )?(\w+)=", text):
        assert name in inspect.signature(fgwot.fused_gromov_wasserstein).parameters, name
    for page in re.findall(r"\{doc\}`(?:[^`<]*<)?([\w/]+)", text):
        assert page == "auto_gallery/index" or (ROOT / "docs" / f"{page}.md").exists(), page
    for place in re.findall(r"\{ref\}`[^`<]*<([\w-]+)>`", text):
        assert f"({place})=" in text, place


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

"""Python blocks of the README and the guides run as they stand."""

import re
from pathlib import Path

import pytest

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


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

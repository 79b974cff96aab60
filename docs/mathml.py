"""Formulas as MathML, which browsers set themselves: the pages need no script and no network."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(markup(node, "inline"))
    raise nodes.SkipNode


def display(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(f"{markup(node, 'block')}</div>\n")
    raise nodes.SkipNode


def markup(node: nodes.Element, kind: str) -> str:
    """Convert a formula; a command that the converter does not know ends the build, as warnings are errors there."""
    found = convert(node.astext(), display=kind)
    if "\\" in found:
        getLogger(__name__).warning("not in MathML: %s", node.astext(), location=node)
    return found

"""One HTML page of tables and figures that needs nothing but itself."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from kmat.reports.tables import Table, TableCell

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2733; --soft: #66717e; --line: #d9dee4; --best: #e3f1e6;
        --warn: #fff4d6; --link: #2f5d8a; --hover: #f5f7f9; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14181d; --ink: #e3e7ec; --soft: #9aa5b1; --line: #343c46; --best: #1f3d29; --warn: #3d3213;
          --link: #8fb8e0; --hover: #1d232a; }
  figure img { background: #fff; border-radius: 4px; padding: 6px; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 76rem; color: var(--ink); background: var(--page);
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
p { max-width: 50rem; }
nav { margin: 1.2rem 0; font-size: .92rem; }
nav a { margin-right: 1.2rem; color: var(--link); }
.banner { background: var(--warn); border-left: 4px solid #d99a00; padding: .7rem 1rem; margin: 1rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: .86rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { caption-side: bottom; text-align: left; padding-top: .6rem; white-space: normal; }
th, td { padding: .34rem .55rem; text-align: right; vertical-align: top; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
tbody tr:last-child > * { border-bottom: 1px solid var(--line); }
tbody tr:hover { background: var(--hover); }
td.best { background: var(--best); font-weight: 600; }
.spread, .paper { color: var(--soft); font-weight: 400; font-size: .92em; }
.paper { display: block; font-style: italic; }
figure { margin: 1.6rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .4rem; max-width: 50rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--link); }
.gallery { display: flex; flex-wrap: wrap; gap: .8rem; }
.gallery figure { margin: 0; width: 8.5rem; overflow-wrap: anywhere; }
.gallery img { width: 100%; padding: 0; image-rendering: pixelated; }
.gallery .none { aspect-ratio: 1; border: 1px dashed var(--line); }
@page { margin: 1.4cm; }
@media print {
  html { font-size: 12px; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  h2, h3, summary { break-after: avoid; }
  figure, table, .gallery { break-inside: avoid; }
  figure img { max-height: 23cm; }
  table { font-size: 7pt; }
  th, td { padding: .2rem .3rem; }
  thead th { white-space: normal; }
  .scroll { overflow: visible; }
  nav { display: none; }
  summary { list-style: none; }
  details::details-content { content-visibility: visible; block-size: auto; } /* paper has no clicks */
  .best, .banner { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .gallery { gap: .2cm; }
  .gallery figure { width: 2cm; }
}
"""


@dataclass(frozen=True)
class Picture:
    """An SVG image under a heading, and the sentences under it."""

    title: str
    svg: bytes
    caption: str


@dataclass(frozen=True)
class Thumbnail:
    """A PNG image, or None if it cannot be read, and lines of text."""

    png: bytes | None
    lines: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Thumbnails under a heading."""

    title: str
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it; ``folded`` tables open on a click at their number and ``fold``.

    So do ``galleries``, on a click at their caption.
    """

    title: str
    banner: str = ""
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    fold: str = "by backbone"
    pictures: Sequence[Picture] = ()
    galleries: Sequence[Gallery] = ()
    galleries_caption: str = ""


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Write the page."""
    links = " ".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    body = "\n".join(_section(f"s{i}", section) for i, section in enumerate(sections))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n"
        f'<p class="soft">{escape(lead)}</p>\n</header>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n'
    )


def _section(name: str, section: Section) -> str:
    parts = [f'<section id="{name}">', f"<h2>{escape(section.title)}</h2>"]
    if section.banner:
        parts.append(f'<p class="banner">{escape(section.banner)}</p>')
    parts += [_table(table) for table in section.tables]
    if section.folded:
        parts.append(_fold(f"{len(section.folded)} tables {section.fold}", map(_table, section.folded)))
    parts += [f'<p class="soft">{escape(note)}</p>' for note in section.notes]
    parts += [_picture(picture) for picture in section.pictures]
    if section.galleries:
        parts.append(_fold(section.galleries_caption, map(_gallery, section.galleries)))
    return "\n".join([*parts, "</section>"])


def _fold(summary: str, parts: Iterable[str]) -> str:
    inside = "\n".join(parts)
    return f"<details><summary>{escape(summary)}</summary>\n{inside}</details>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cell, cells))}</tr>' for name, cells in table.rows
    )
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="scroll"><table>\n<caption>{escape(table.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cell(cell: TableCell) -> str:
    mean, sign, spread = cell.text.partition("±")
    text = escape(mean) + (f'<span class="spread"> ± {escape(spread)}</span>' if sign else "")
    paper = f'<span class="paper">[{escape(cell.paper)}]</span>' if cell.paper else ""
    return f"<td{' class=best' if cell.best else ''}>{text}{paper}</td>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<h3>{escape(picture.title)}</h3>\n<figure><img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _gallery(gallery: Gallery) -> str:
    shown = "\n".join(map(_thumbnail, gallery.thumbnails))
    return f'<h3>{escape(gallery.title)}</h3>\n<div class="gallery">{shown}</div>'


def _thumbnail(thumbnail: Thumbnail) -> str:
    caption = "<br>".join(map(escape, thumbnail.lines))
    if thumbnail.png is None:
        image = '<div class="none"></div>'
    else:
        data = base64.b64encode(thumbnail.png).decode("ascii")
        image = f'<img src="data:image/png;base64,{data}" alt="">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"

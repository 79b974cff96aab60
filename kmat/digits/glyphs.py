"""Printed characters: pictures from fonts that come with matplotlib, and words for their shapes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from kmat.digits import CLASSES, SIZE, resize
from kmat.tinyclip import layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

COARSE = 8
_CANVAS = 64

#: What each character looks like. A caption draws from these; none contains the name of a digit.
SHAPES: dict[str, tuple[str, ...]] = {
    "0": ("a large closed loop", "an oval outline", "an empty centre", "curved all around", "no straight stroke"),
    "1": ("a single vertical stroke", "no loop", "a straight narrow figure", "a short flag at the top left"),
    "2": ("an open curve at the top", "a diagonal to the lower left", "a flat bar at the bottom", "no loop"),
    "3": ("a pair of open curves", "open on the left", "a notch in the middle", "curved on the right", "no loop"),
    "4": ("a vertical stroke on the right", "a bar across the middle", "a diagonal on the left", "corners at the top"),
    "5": ("a flat bar at the top", "an open curve at the bottom", "a corner at the top left", "open at the lower left"),
    "6": ("a closed loop at the bottom", "a curved tail at the top", "open at the upper right", "a round belly"),
    "7": ("a flat bar at the top", "a diagonal to the lower left", "a corner at the top right", "no loop"),
    "8": ("a pair of closed loops", "narrow in the middle", "a loop above a loop", "curved all around"),
    "9": ("a closed loop at the top", "a curved tail at the bottom", "open at the lower left", "a round head"),
    "a": ("a peak at the top", "a bar across the middle", "a pair of diagonals"),
    "b": ("a vertical stroke on the left", "a pair of closed loops", "curved on the right"),
    "c": ("a large open curve", "open on the right", "no loop"),
    "d": ("a vertical stroke on the left", "a large closed loop", "curved on the right"),
    "e": ("a vertical stroke on the left", "a flat bar at the top", "a flat bar at the bottom", "open on the right"),
    "f": ("a vertical stroke on the left", "a flat bar at the top", "a bar across the middle"),
    "g": ("a large open curve", "open at the upper right", "a corner at the lower right"),
    "h": ("a pair of vertical strokes", "a bar across the middle", "no loop"),
    "j": ("a hook at the lower left", "a vertical stroke on the right", "no loop"),
    "k": ("a vertical stroke on the left", "a pair of diagonals", "open on the right"),
    "l": ("a vertical stroke on the left", "a flat bar at the bottom", "no loop"),
    "m": ("a pair of vertical strokes", "a pair of diagonals", "a notch at the top"),
    "n": ("a pair of vertical strokes", "a diagonal to the lower right", "no loop"),
    "p": ("a closed loop at the top", "a vertical stroke on the left"),
    "q": ("a large closed loop", "a tail at the lower right"),
    "r": ("a closed loop at the top", "a vertical stroke on the left", "a diagonal to the lower right"),
    "t": ("a flat bar at the top", "a single vertical stroke", "no loop"),
    "u": ("a pair of vertical strokes", "curved at the bottom", "open at the top"),
    "v": ("a pair of diagonals", "a peak at the bottom", "open at the top"),
    "w": ("a pair of valleys", "open at the top", "a row of diagonals"),
    "x": ("a pair of crossing diagonals", "no loop", "open on all sides"),
    "y": ("a pair of diagonals", "a single vertical stroke", "open at the top"),
}
STYLES = {
    "thick": ("thick", "bold", "heavy"),
    "thin": ("thin", "light", "fine"),
    "slanted": ("slanted", "leaning", "tilted"),
    "upright": ("upright", "straight up"),
}
SHARPNESS = {
    "high": ("smooth", "sharp", "clean", "finely drawn"),
    "low": ("coarse", "blurred", "blocky", "of few pixels"),
}
OPENERS = {
    "high": ("a smooth character", "a finely drawn figure", "a sharp picture of a character"),
    "low": ("a coarse character", "a blurred figure", "a blocky picture of a character"),
    "any": ("a photo of a", "a character", "a picture of a", "a sign", "a figure"),
}
LINKS = ("with", "showing", ":", "that has")


@cache
def _fonts() -> tuple[tuple[str, bool], ...]:
    """Paths of the fonts for text, and whether each is bold."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = (p for p in sorted(folder.glob("*.ttf")) if p.stem.startswith(("DejaVu", "STIXGeneral")))
    return tuple((str(p), "Bol" in p.stem) for p in names if "Display" not in p.stem)


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def glyph(character: str, modality: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Draw one printed character, white on black, distorted at random.

    Parameters
    ----------
    character : str
        A key of ``SHAPES``; letters are drawn as capitals.
    modality : {"high", "low"}
        "low" passes through 8 x 8 pixels.
    rng : numpy.random.Generator
        Font, weight, slant, turn, margins and blur.

    Returns
    -------
    image : (32, 32) uint8
    style : tuple of str
        Keys of ``STYLES`` that hold for it.
    """
    path, bold = _fonts()[rng.integers(len(_fonts()))]
    stroke = int(rng.integers(0, 3))
    image = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(image).text(
        (_CANVAS / 2, _CANVAS / 2), character.upper(), font=_font(path, 40), fill=255, anchor="mm", stroke_width=stroke
    )
    slant, half = rng.uniform(-0.45, 0.45), _CANVAS / 2
    image = image.transform(
        (_CANVAS, _CANVAS), Image.Transform.AFFINE, (1, slant, -half * slant, 0, 1, 0), Image.Resampling.BILINEAR
    )
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    left, top, right, bottom = image.getbbox() or (0, 0, _CANVAS, _CANVAS)
    # Some keep their proportions, as a pen does; others fill the frame, as in a form.
    pad = (bottom - top - (right - left)) / 2 * rng.uniform(0, 1)
    margin = rng.uniform(0, 10)
    box = round(left - pad - margin), round(top - margin), round(right + pad + margin), round(bottom + margin)
    image = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BOX)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.7)))
    if modality == "low":
        image = image.resize((COARSE, COARSE), Image.Resampling.BOX)
    weight = "thick" if stroke + bold >= 2 else "thin"
    return resize(np.asarray(image)), (weight, "slanted" if abs(slant) > 0.2 else "upright")


def _pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[int(rng.random() * len(words))]


def caption(character: str, modality: str, style: tuple[str, ...], rng: np.random.Generator) -> str:
    """Write one caption: opener, style, often the name, some shapes.

    Examples
    --------
    >>> caption("8", "low", ("thick", "upright"), np.random.default_rng(3))
    'thick eight with narrow in the middle'
    """
    adjectives = [_pick(STYLES[s], rng) for s in style if rng.random() < 0.4]
    if rng.random() < 0.4:
        adjectives.append(_pick(SHARPNESS[modality], rng))
    name = CLASSES[int(character)] if character.isdigit() else f"letter {character}"
    subject = [name] if rng.random() < 0.5 else []
    shapes = rng.permutation(SHAPES[character])[: rng.integers(0 if subject else 1, 4)].tolist()
    opener = [_pick(OPENERS["any" if rng.random() < 0.4 else modality], rng)] if rng.random() < 0.6 else []
    link = [_pick(LINKS, rng)] if shapes and (subject or opener) else []
    return " ".join([*opener, *adjectives, *subject, *link, " and ".join(shapes)]).strip()


def vocabulary() -> list[str]:
    """Return the vocabulary of the digits' text towers: every word of the captions."""
    groups = [*SHAPES.values(), *STYLES.values(), *SHARPNESS.values(), *OPENERS.values(), LINKS, CLASSES]
    return layout.vocabulary([phrase for group in groups for phrase in group] + ["letter and"])

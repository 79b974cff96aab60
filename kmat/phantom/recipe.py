"""What differs between the phantoms, in one place: generation, pretraining and descriptions are the same for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmat import phantom
from kmat.phantom import anatomy, breast, factors, language, render, skin
from kmat.phantom.breast import anatomy as breast_anatomy
from kmat.phantom.breast import factors as breast_factors
from kmat.phantom.breast import language as breast_language
from kmat.phantom.breast import render as breast_render
from kmat.phantom.render import Scanner
from kmat.phantom.skin import anatomy as skin_anatomy
from kmat.phantom.skin import factors as skin_factors
from kmat.phantom.skin import language as skin_language
from kmat.phantom.skin import render as skin_render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kmat.phantom.factors import Factors
    from kmat.tinyclip.frozen import Embedded

    Table = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Recipe:
    """How one phantom is made.

    Attributes
    ----------
    bench : Embedded
        Its frozen files.
    file : str
        Name of the frozen images.
    seed : int
        Of the benchmark's patients.
    entropy : int
        Of the pretraining patients, another stream.
    pairs : mapping
        Pretraining images of each modality.
    epochs : int
        Of pretraining.
    values, hidden : mapping
        The factors, and which of them a modality cannot show.
    classes : sequence of tables
        Distribution of the factors in each class.
    flat : table
        The same for pretraining, where no class exists.
    draw, build : callable
        Patients from a table, and anatomy from patients.
    render : mapping
        Modality to renderer.
    pretraining, scanners : mapping
        Modality to scanner, in pretraining and in the benchmark. The latter have more display contrast: scanners that
        the backbones never saw. docs/phantom.md says what decided it.
    finding, caption, vocabulary : callable
        The language.
    openers : mapping
        Modality to how a text begins.
    told : tuple of str
        Factors that a description may mention in its finding.
    extras : mapping
        Modality to phrases beside the finding, by factor and value.
    noise_bits : int
        How many of the last bits of the frozen images are cleared: they are noise, and a fifth of the file each.
    """

    bench: Embedded
    file: str
    seed: int
    entropy: int
    pairs: Mapping[str, int]
    epochs: int
    values: Mapping[str, tuple[str, ...]]
    hidden: Mapping[str, frozenset[str]]
    classes: Sequence[Table]
    flat: Table
    draw: Callable[[Table, int, np.random.Generator], Factors]
    build: Callable[[Factors, np.random.Generator], Any]
    render: Mapping[str, Callable[[Any, Scanner, np.random.Generator], NDArray[np.uint8]]]
    pretraining: Mapping[str, Scanner]
    scanners: Mapping[str, Scanner]
    finding: Callable[[Mapping[str, str], frozenset[str], np.random.Generator], str]
    caption: Callable[[Mapping[str, str], str, np.random.Generator], str]
    vocabulary: Callable[[], list[str]]
    openers: Mapping[str, tuple[str, ...]]
    told: tuple[str, ...]
    extras: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]]
    noise_bits: int = 1

    def value_names(self, drawn: Factors) -> list[dict[str, str]]:
        """Return the values of every patient by name."""
        n = len(next(iter(drawn.values())))
        return [{f: self.values[f][v[i]] for f, v in drawn.items()} for i in range(n)]


def _more_contrast(scanners: Mapping[str, Scanner]) -> dict[str, Scanner]:
    return {m: Scanner(contrast, scanners[m].noise) for m, contrast in (("high", 1.05), ("low", 1.1))}


CHEST = Recipe(
    bench=phantom.CHEST,
    file=phantom.CHEST_FILE,
    seed=20_261_124,
    entropy=41_417,
    pairs={"high": 40_000, "low": 20_000},
    epochs=10,
    values=factors.VALUES,
    hidden={modality: frozenset({name}) for modality, name in factors.HIDDEN.items()},
    classes=factors.CLASS_TABLE,
    flat=factors.pretraining_table(),
    draw=factors.draw,
    build=anatomy.build,
    render=render.RENDER,
    pretraining=render.PRETRAINING,
    scanners=_more_contrast(render.PRETRAINING),
    finding=language.finding,
    caption=language.caption,
    vocabulary=language.vocabulary,
    openers=language.OPENERS,
    told=("count", "density", "size", "margin", "texture", "side", "position", "zone", "depth"),
    extras={"high": language.EXTRAS, "low": language.EXTRAS},
)

BREAST = Recipe(
    bench=breast.BREAST,
    file=breast.BREAST_FILE,
    seed=20_261_125,
    entropy=41_419,
    pairs={"high": 16_000, "low": 8_000},
    epochs=8,
    values=breast_factors.VALUES,
    hidden=breast_factors.HIDDEN,
    classes=breast_factors.CLASS_TABLE,
    flat=breast_factors.pretraining_table(),
    draw=breast_factors.draw,
    build=breast_anatomy.build,
    render=breast_render.RENDER,
    pretraining=breast_render.PRETRAINING,
    scanners={"high": Scanner(1.05, 0.008), "low": Scanner(1.1, 0.87)},  # and more speckle
    finding=breast_language.finding,
    caption=breast_language.caption,
    vocabulary=breast_language.vocabulary,
    openers=breast_language.OPENERS,
    told=("shape", "margin", "size", "density", "place", "echo", "posterior", "orientation"),
    extras={"high": breast_language.EXTRAS, "low": {"tissue": breast_language.EXTRAS["tissue"]}},
)

SKIN = Recipe(
    bench=skin.SKIN,
    file=skin.SKIN_FILE,
    seed=20_261_127,
    entropy=41_421,
    pairs={"high": 16_000, "low": 8_000},
    epochs=8,
    values=skin_factors.VALUES,
    hidden=skin_factors.HIDDEN,
    classes=skin_factors.CLASS_TABLE,
    flat=skin_factors.pretraining_table(),
    draw=skin_factors.draw,
    build=skin_anatomy.build,
    render=skin_render.RENDER,
    pretraining=skin_render.PRETRAINING,
    scanners=_more_contrast(skin_render.PRETRAINING),
    finding=skin_language.finding,
    caption=skin_language.caption,
    vocabulary=skin_language.vocabulary,
    openers=skin_language.OPENERS,
    told=tuple(name for name in skin_factors.VALUES if name != "skin"),
    extras={"high": skin_language.EXTRAS, "low": skin_language.EXTRAS},
    noise_bits=2,
)

RECIPES: dict[str, Recipe] = {"chest": CHEST, "breast": BREAST, "skin": SKIN}

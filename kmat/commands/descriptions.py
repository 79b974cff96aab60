"""The command about the sentences that describe the classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from kmat.commands.base import Command
from kmat.console import note, out, plain_table
from kmat.embedded import EMBEDDED
from kmat.errors import UserError
from kmat.modalities import MODALITIES
from kmat.tasks import BUILT_IN, backbones_of
from kmat.tasks.descriptions import described_classes, examine, load_descriptions
from kmat.tasks.paper import shipped_sentences
from kmat.tinyclip.frozen import Embedded


@dataclass(frozen=True)
class Descriptions(Command):
    """List the sentences that describe the classes, or check them."""

    example: ClassVar[str] = "kmat descriptions mine.json --check"

    sources: Positional[tuple[str, ...]] = ()
    """Built-in tasks, or JSON files of your own; every built-in task that has sentences by default."""
    check: bool = False
    """Count, measure and compare them instead. Too few, repeated or too long ones and, with --no-class-names, those
    that name their class are an error; near duplicates are shown only."""
    classes: tuple[str, ...] = ()
    """Only these."""
    modality: Literal["high", "low", "both"] = "both"
    """Only this one."""
    expect: int | None = None
    """Sentences per class and modality, at least; 50 by default, 20 for digits."""
    near: float = 0.7
    """Sentences are near duplicates when their sets of words overlap by more (Jaccard index)."""
    no_class_names: bool = False
    """Refuse sentences that contain the name of their class."""
    tokenizer: str | None = None
    """The backbone whose tokens are counted: biomedclip, one of kmat's tiny models, or local-dir:DIR. By default an
    embedded task's own; else BiomedCLIP's, if its tokenizer is in the local cache."""

    def __call__(self) -> None:
        """Run it."""
        if not 0 <= self.near <= 1:
            raise UserError(f"--near {self.near}: expected a number from 0 to 1")
        sources = self.sources or tuple(name for name in BUILT_IN if _file(name).exists())
        problems = [problem for source in sources for problem in self._show(source)]
        for problem in problems:
            note(problem)
        if problems:
            raise UserError(f"problems in the descriptions: {len(problems)}, listed above")

    def _show(self, source: str) -> list[str]:
        """Print the sentences of a task or file, or what is found in them; returns the problems."""
        path = _file(source)
        if source in BUILT_IN and not path.exists():
            raise UserError(f"the task {source} comes without descriptions")
        known = described_classes(path)
        if unknown := [label for label in self.classes if label not in known]:
            raise UserError(f"{path}: --classes {unknown[0]!r}: expected some of {', '.join(known)}")
        labels = self.classes or known
        sentences = load_descriptions(path, labels)
        pairs = [
            (label, modality, sentences[modality][index])
            for index, label in enumerate(labels)
            for modality in MODALITIES
            if self.modality in (modality, "both")
        ]
        if self.check:
            return list(self._check(source, pairs))
        for label, modality, texts in pairs:
            out.print(f"{source}: {label}, {modality}", style="bold", highlight=False)
            for text in texts:
                out.print(text, highlight=False)
        return []

    def _check(self, source: str, pairs: Sequence[tuple[str, str, Sequence[str]]]) -> Iterator[str]:
        """Print a row per class and modality; yields the problems."""
        from kmat.model.backbone import offline_tokenizer

        backbone = self.tokenizer or backbones_of(source)[0]
        tokenizer = offline_tokenizer(backbone)
        usual = EMBEDDED[source].sentences if source in EMBEDDED else Embedded.sentences
        expected = usual if self.expect is None else self.expect
        table = plain_table(f"{source}: sentences per class and modality")
        for name in ("class", "modality"):
            table.add_column(name)
        for name in ("sentences", "repeated", "near", "naming the class", "words", "tokens"):
            table.add_column(name, justify="right")
        for label, modality, texts in pairs:
            where = f"{source}, {label}, {modality}"
            found = examine(texts, label, self.near)
            tokens = _count_tokens(tokenizer, texts) if tokenizer else []
            if len(texts) < expected:
                yield f"{where}: {len(texts)} sentences, expected {expected}"
            yield from (f"{where}: repeated: {text}" for text in found.repeated)
            if self.no_class_names:
                yield from (f"{where}: names its class: {text}" for text in found.leaking)
            for text, length in zip(texts, tokens, strict=False):
                if tokenizer and length > tokenizer.context_length:
                    yield f"{where}: {length} tokens, longer than {tokenizer.context_length}: {text}"
            for first, second, overlap in found.near:
                note(f"{where}: near duplicates ({overlap:.2f}): {first} | {second}")
            counts = (len(texts), len(found.repeated), len(found.near), len(found.leaking))
            table.add_row(label, modality, *map(str, counts), _span(found.words), _span(tokens))
        out.print(table)
        if tokenizer is None:
            note(f"{source}: the tokenizer of {backbone} is not on disk: words are counted, not tokens")


def _file(source: str) -> Path:
    """Where the sentences of a built-in task lie, or a path as it is."""
    if source in EMBEDDED:
        return EMBEDDED[source].descriptions
    return shipped_sentences(source) if source in BUILT_IN else Path(source)


def _count_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text before any cut, special ones included."""
    ids: Any = tokenizer.tokenizer(list(texts))["input_ids"]
    return [len(row) for row in ids]


def _span(lengths: Sequence[int]) -> str:
    return f"{min(lengths)}-{max(lengths)}" if lengths else "-"

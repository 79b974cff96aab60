"""What carries in residual transport, on embedded benchmarks: `python -m benchmarks.residuals STUDY`.

- ``merged``: the low end's classes are fewer, and some are two of the high end's put together;
- ``couplings``: the residuals of two classes carried rightly, crosswise and in between;
- ``names``: a coupling whose linear cost is between the classes' names, beside the rule's;
- ``descriptions``: texts that are few, say nothing of a class, or are of another one.

Each prints a table in Markdown. Settings are `kmat train`'s; test scores in per cent, mean and standard deviation over
backbones and seeds.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import fgwot
import kmat
from benchmarks.machine import describe
from kmat.embedded import EMBEDDED
from kmat.grids.results import Difference
from kmat.grids.rows import BENCH
from kmat.methods import CoOpConfig, KMaTConfig, MethodConfig, ResidualConfig, ZeroShotConfig
from kmat.methods.base import Setting, prototypes, template_sentences
from kmat.methods.losses import geometry
from kmat.methods.residual import couple, transport
from kmat.modalities import HIGH, LOW, MODALITIES
from kmat.model.backbone import Backbone, load_backbone
from kmat.model.features import FeatureCache
from kmat.runs.evaluation import Means, harmonic_mean, score
from kmat.runs.folder import RunDir
from kmat.tasks.base import Descriptions, Task

# What the low end calls several classes of the high end, in words that the backbones know; and what it does not have.
MERGED: Mapping[str, tuple[Mapping[str, tuple[str, ...]], tuple[str, ...]]] = {
    "chest-phantom": ({"opacity": ("dense opacity", "hazy opacities")}, ()),
    "breast-phantom": ({"mass": ("smooth mass", "irregular mass")}, ()),
    "skin-phantom": (
        {"smooth spot": ("brown spot", "uneven spot"), "bump": ("pale bump", "scaly bump")},
        ("warty plaque",),
    ),
}


@dataclass(frozen=True)
class Place:
    """One backbone and seed, with what is computed once for it."""

    task: Task
    backbone: Backbone
    seed: int
    epochs: int
    cache: FeatureCache

    def fit(self, method: MethodConfig, task: Task | None = None, out: Path | None = None) -> kmat.Run:
        """Train a method here."""
        return kmat.fit(
            task or self.task,
            method,
            backbone=self.backbone,
            seed=self.seed,
            epochs=self.epochs,
            out=out,
            cache=self.cache.folder,
        )

    def images(self, modality: str) -> tuple[Tensor, Tensor]:
        """Unit features (N, D) and labels (N,) of a test set."""
        records = self.task.select(modality, "test")
        views = self.cache.images(self.backbone, self.task.images, [record.ref for record in records])
        return views.features[0], torch.tensor([records[index].label for index in views.kept])

    def learn(self, weight: float, task: Task | None = None) -> Tensor:
        """High-end text features (C, D) after training with the anchor at ``weight``."""
        with tempfile.TemporaryDirectory() as folder:
            self.fit(ResidualConfig(lambda_anc=weight), task, Path(folder) / "run")
            return RunDir(Path(folder) / "run").tensors()[f"text_features.{HIGH}"]

    def described(self, sentences: Descriptions) -> list[Tensor]:
        """Unit features (C, D) of the descriptions of both ends."""
        setting = Setting(self.backbone, self.task, self.cache, self.seed)
        return [F.normalize(each, dim=-1) for each in prototypes(setting, sentences, normalise=True, renormalise=False)]


def merge(task: Task, groups: Mapping[str, tuple[str, ...]], dropped: Sequence[str] = ()) -> Task:
    """Put classes of the low end together, and leave some out; the high end stays as it is.

    The sentences of a group are those of its parts.
    """
    labels = (*task.labels, *groups)
    of = {task.labels.index(part): labels.index(name) for name, parts in groups.items() for part in parts}
    lost = {task.labels.index(name) for name in dropped}
    records = tuple(
        replace(record, label=of.get(record.label, record.label)) if record.modality == LOW else record
        for record in task.records
        if record.modality != LOW or record.label not in lost
    )
    sentences = task.descriptions or {}
    low = [label for label in range(len(task.labels)) if label not in of and label not in lost]
    parts = [[task.labels.index(part) for part in group] for group in groups.values()]
    return replace(
        task,
        labels=labels,
        classes=labels,
        records=records,
        descriptions={
            HIGH: sentences[HIGH],
            LOW: tuple(sum((sentences[LOW][label] for label in group), ()) for group in [*([c] for c in low), *parts]),
        },
        absent={HIGH: frozenset(range(len(task.labels), len(labels))), LOW: frozenset(of) | lost},
    )


def merged_scores(run: kmat.Run, task: Task, whole: Task, images: Sequence[object]) -> Means:
    """Low-end scores on ``task`` of a run on the ``whole``: the probabilities of the parts are added up after."""
    probabilities = run.predict(images, LOW)
    columns = []
    for label in task.present(LOW):
        name = task.labels[label]
        parts = [name] if name in whole.labels else MERGED[whole.name][0][name]
        columns.append(probabilities[:, [whole.labels.index(part) for part in parts]].sum(dim=1))
    own = list(task.present(LOW))
    labels = torch.tensor([own.index(record.label) for record in task.select(LOW, "test")])
    found = score(torch.stack(columns, dim=1).argmax(dim=1), labels, len(own))
    return Means(found.accuracy, found.macro_f1)


def merged(places: Sequence[Place], weight: float) -> None:
    """Print every row that can be had: trained on merged classes, or on all, its low end's put together after."""
    whole = places[0].task
    task = merge(whole, *MERGED[whole.name])
    rows: dict[str, list[dict[str, float]]] = {}
    for place in places:
        pictures = [task.images.read(record.ref) for record in task.select(LOW, "test")]
        for name, row in BENCH.items():
            method = replace(row, lambda_anc=weight) if getattr(row, "lambda_anc", 0) else row
            after = isinstance(method, KMaTConfig) or method == CoOpConfig(csc=True)
            run = place.fit(method, whole if after else task)
            low = merged_scores(run, task, whole, pictures) if after else run.scores[LOW]["test"]
            high = run.scores[HIGH]["test"]
            rows.setdefault(name + ", merged after" * after, []).append(
                {
                    "Hi acc": 100 * high.accuracy,
                    "Lo acc": 100 * low.accuracy,
                    "Lo F1": 100 * low.macro_f1,
                    "H acc": 100 * harmonic_mean(high.accuracy, low.accuracy),
                }
            )
    ours = [each["H acc"] for each in rows["Residual transport"]]
    print(f"{task.one_sided()}; lambda_anc {weight:g}\n")
    print(
        "| method | Hi acc | Lo acc | Lo F1 | H acc | transport minus it |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for name, found in rows.items():
        differences = [a - each["H acc"] for a, each in zip(ours, found, strict=True)]
        error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        minus = "" if name == "Residual transport" else f"{fmean(differences):+.1f}±{error:.1f}"
        print(f"| {name} | {' | '.join(spread([each[key] for each in found]) for key in found[0])} | {minus} |")


def couplings(places: Sequence[Place], weight: float) -> None:
    """Print what the residuals of the two likest classes are worth, carried whole, in part and crosswise."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for place in places:
        high, low = place.described(place.task.descriptions)
        residuals = place.learn(weight) - high
        i, j = likest(low)
        images, labels = place.images(LOW)
        of_both = (labels == i) | (labels == j)
        plans = {"the rule": couple(high, low, 0.1, 0.1), "descriptions alone": None}
        for b in (0.0, 0.25, 0.5, 0.75, 1.0):
            plan = torch.eye(len(low), dtype=torch.float64)
            plan[[i, i, j, j], [i, j, i, j]] = torch.tensor([1 - b, b, b, 1 - b], dtype=torch.float64)
            plans[f"b = {b:g}"] = plan
        for name, plan in plans.items():
            w = low if plan is None else transport(residuals, low, plan, 1.0)
            between = (images[of_both] @ w[[i, j]].T).argmax(dim=1) == (labels[of_both] == j)
            rows.setdefault(name, []).append((accuracy(images, labels, w), 100 * float(between.double().mean())))
    first = places[0].task.labels
    print(f"{' and '.join(first[c] for c in likest(places[0].described(places[0].task.descriptions)[1]))}\n")
    print("| coupling | low-end accuracy | between the two |\n| --- | ---: | ---: |")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(spread(column) for column in zip(*found, strict=True))} |")


def couple_by_names(names: Sequence[Tensor], high: Tensor, low: Tensor) -> Tensor:
    """The rule's coupling (n, m) with squared distances of the names' unit features, high and low, as linear cost."""
    cost = geometry(*(each.double() for each in names))[0]
    _, c_high, c_low = geometry(high.double(), low.double())
    return fgwot.fused_gromov_wasserstein(cost, c_high, c_low, alpha=0.1, epsilon=0.1).plan


def names(places: Sequence[Place], weight: float) -> None:
    """Print what the rule gains when its coupling is told the classes by name."""
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for place in places:
        high, low = place.described(place.task.descriptions)
        called = place.described(template_sentences(place.task, ZeroShotConfig().template))
        w_high = place.learn(weight)
        plans = {
            "descriptions alone": None,
            "the rule": couple(high, low, 0.1, 0.1),
            "by names": couple_by_names(called, high, low),
            "class to class": torch.eye(len(low), dtype=torch.float64),
        }
        images = {modality: place.images(modality) for modality in MODALITIES}
        high_accuracy = accuracy(*images[HIGH], w_high)
        for name, plan in plans.items():
            w = low if plan is None else transport(w_high - high, low, plan, 1.0)
            found = score((images[LOW][0] @ w.T).argmax(dim=1), images[LOW][1], len(low))
            own = 0.0 if plan is None else 100 * float((plan / plan.sum(dim=0)).diagonal().mean())
            low_accuracy = 100 * found.accuracy
            h = harmonic_mean(high_accuracy, low_accuracy)
            rows.setdefault(name, []).append((own, low_accuracy, 100 * found.macro_f1, h))
    print(f"lambda_anc {weight:g}; H with the trained high end in every row\n")
    print("| coupling | own residual, % | Lo acc | Lo F1 | H acc | minus the rule |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, values in rows.items():
        minus = Difference.of([a[-1] - b[-1] for a, b in zip(values, rows["the rule"], strict=True)])
        print(f"| {name} | {' | '.join(spread(column) for column in zip(*values, strict=True))} | {minus} |")


def descriptions(places: Sequence[Place], weight: float) -> None:
    """Print low-end accuracy of descriptions alone and of the rule, with other texts at one end."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for place in places:
        task, (images, labels) = place.task, place.images(LOW)
        learned = place.learn(weight)
        for end in (LOW, HIGH):
            likeness = place.described(task.descriptions)[MODALITIES.index(end)]
            for name, texts in variants(task.labels, task.descriptions[end], likeness):
                sentences = {**task.descriptions, end: texts}
                # The high end learns from its own texts, if there is an anchor, and never from the low end's.
                again = end == HIGH and weight > 0 and texts != task.descriptions[HIGH]
                w_high = place.learn(weight, replace(task, descriptions=sentences)) if again else learned
                high, low = place.described(sentences)
                w = transport(w_high - high, low, couple(high, low, 0.1, 0.1), 1.0)
                found = accuracy(images, labels, low), accuracy(images, labels, w)
                rows.setdefault(f"{end} end: {name}", []).append(found)
    print("| texts | descriptions alone | the rule | the rule minus them |\n| --- | ---: | ---: | ---: |")
    for name, found in rows.items():
        alone, rule = zip(*found, strict=True)
        print(f"| {name} | {spread(alone)} | {spread(rule)} | {spread([b - a for a, b in found])} |")


def variants(
    labels: Sequence[str], texts: tuple[tuple[str, ...], ...], described: Tensor
) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    """Other texts for the classes of one end: fewer, for one class those of all, and those of two classes exchanged."""
    yield "as they are", texts
    for count in (5, 1):
        yield f"{count} of each class", tuple(each[:count] for each in texts)
    everything: tuple[str, ...] = sum(texts, ())
    for label, name in enumerate(labels):
        yield f"{name} described by all texts", (*texts[:label], everything, *texts[label + 1 :])
    for i, j in (likest(described), likest(described, most=False)):
        order = list(range(len(labels)))
        order[i], order[j] = j, i
        yield f"{labels[i]} and {labels[j]} exchanged", tuple(texts[label] for label in order)


def likest(described: Tensor, *, most: bool = True) -> tuple[int, int]:
    """The two classes whose descriptions are most alike, or least."""
    pairs = sorted(
        combinations(range(len(described)), 2), key=lambda pair: float(described[pair[0]] @ described[pair[1]])
    )
    return pairs[-1 if most else 0]


def accuracy(images: Tensor, labels: Tensor, text: Tensor) -> float:
    """Percent of images (N, D) that lie closest to their class's text feature."""
    return 100 * float(((images @ text.T).argmax(dim=1) == labels).double().mean())


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.1f}" + (f"±{stdev(values):.1f}" if len(values) > 1 else "")


STUDIES = {"merged": merged, "couplings": couplings, "names": names, "descriptions": descriptions}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--task", choices=EMBEDDED, default="breast-phantom")
    parser.add_argument("--backbone", nargs="+", help="the task's own by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--lambda-anc", type=float, default=1.0, help="of every row with an anchor")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--cache", type=Path, help="folder of the feature cache")
    args = parser.parse_args(arguments)
    if args.study == "merged" and args.task not in MERGED:
        parser.error(f"merged: --task is one of {', '.join(MERGED)}")
    task, cache = kmat.load_task(args.task), FeatureCache(args.cache)
    names = args.backbone or EMBEDDED[args.task].backbones
    backbones = [load_backbone(name) for name in names]
    places = [Place(task, each, seed, args.epochs, cache) for each in backbones for seed in args.seeds]
    machine = describe(torch.get_num_threads(), f"python -m benchmarks.residuals {args.study}")
    print(f"{task.banner}\n{task.name} on {', '.join(names)}, seeds {', '.join(map(str, args.seeds))}")
    print(f"commit {machine['commit']}, {machine['processor']}\n")
    STUDIES[args.study](places, args.lambda_anc)


if __name__ == "__main__":
    main()

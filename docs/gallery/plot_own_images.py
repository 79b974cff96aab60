"""
From a folder of images to predictions
======================================

Images of two modalities in folders, sentences on how each class looks in each of them, and the commands of kmat from the first check
to a report. The pictures are generated, chests of kmat's phantom as slices and as projections, and so is the tiny CLIP that sees them:
the way is that of real images, the numbers say nothing about any.
"""

# %%
# Images lie in ``ROOT/MODALITY/CLASS/``. The high end, here called *ct*, has the labels that are learned from; the low end, *xray*, is
# classified without one of its images in training. Patients are in the files' names.
import csv
import json
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt

from kmat import load_task
from kmat.cli import main as kmat

root = Path(mkdtemp())
phantom = load_task("chest-phantom")
names = {"high": "ct", "low": "xray"}
taken = Counter()
for record in phantom.records:
    label = phantom.labels[record.label].replace(" ", "_")
    folder = root / "mine" / names[record.modality] / label
    taken[folder] += 1
    if taken[folder] <= 80:
        folder.mkdir(parents=True, exist_ok=True)
        phantom.images.read(record.ref).save(folder / f"patient{record.patient}-{record.ref}.png")

figure, axes = plt.subplots(2, 6, figsize=(12, 4.2))
for row, modality in zip(axes, names.values(), strict=True):
    shown = [
        (folder, file)
        for folder in sorted((root / "mine" / modality).iterdir())
        for file in sorted(folder.iterdir())[:2]
    ]
    for axis, (folder, file) in zip(row, shown, strict=True):
        axis.imshow(plt.imread(file), cmap="gray")
        axis.set_title(f"{modality}/{folder.name}", fontsize=9)
        axis.axis("off")

# %%
# Sentences per class and modality are in a JSON file, under the folders' names; kmat brings some for its phantom.
shipped = json.loads((files("kmat") / "descriptions" / "chest_phantom.json").read_text(encoding="utf-8"))
sentences = {name.replace(" ", "_"): both for name, both in shipped["descriptions"].items()}
(root / "mine.json").write_text(json.dumps({"descriptions": sentences}), encoding="utf-8")
for name, both in sentences.items():
    print(f"{name}: {both['high'][0]} / {both['low'][0]}")

# %%
# What does kmat make of it? ``kmat check-data`` reads every image, and finds files that are broken or there twice. It divides each class
# by patient, here by what the pattern finds in a path. In a shell these lines begin with ``kmat``.
shutil.copy(
    next((root / "mine" / "xray" / "clear_lungs").iterdir()),
    root / "mine" / "xray" / "clear_lungs" / "patient0-again.png",
)
(root / "mine" / "ct" / "dense_opacity" / "patient0-cut.png").write_bytes(b"\x89PNG, and no more")
images = ["--high", "ct", "--low", "xray", "--patient-pattern", "patient([0-9]+)"]
kmat(["check-data", str(root / "mine"), *images])

# %%
# Training draws 16 images of each class at the high end. On a real backbone (``--backbone biomedclip``) this is minutes; its random crops
# are left out here, as the tiny CLIP has seen whole images only. At the end it classifies both test sets. Here the high end gains and the low
# end loses: one seed on one backbone shows no more than why ``kmat bench`` has several of both.
task = ["--task", str(root / "mine"), "--descriptions", str(root / "mine.json"), *images]
model = ["--backbone", "phantom:seed0", "--augment", "none", "--cache", str(root / "cache")]
for method in ("zero-shot", "kmat"):
    kmat(["train", method, *task, *model, "--out", str(root / "runs" / method)])

# %%
# Each run keeps the probabilities of every image that it was tested on, and learned prompts, settings and split.
print(*sorted(file.name for file in (root / "runs" / "kmat").iterdir()))
with (root / "runs" / "kmat" / "predictions.csv").open(newline="") as file:
    wrong = [
        image for image in csv.DictReader(file) if image["modality"] == "low" and image["label"] != image["predicted"]
    ]
figure, axes = plt.subplots(1, 5, figsize=(12, 3.4))
for axis, image in zip(axes, wrong[:5], strict=True):
    axis.imshow(plt.imread(root / "mine" / image["path"]), cmap="gray")
    axis.set_title(
        f"{image['label']},\ntaken for {image['predicted']}\nat {float(image[image['predicted']]):.0%}", fontsize=9
    )
    axis.axis("off")
figure.tight_layout()

# %%
# New images get their probabilities from a trained run.
new = sorted((root / "mine" / "xray" / "hazy_opacities").iterdir())[:3]
predictions = root / "probabilities.csv"
kmat(
    ["predict", str(root / "runs" / "kmat"), *map(str, new), "--out", str(predictions), "--cache", str(root / "cache")]
)
print(predictions.read_text().replace(str(root), "ROOT"))

# %%
# And a report: one page with tables, floors, confusion and calibration by class, which opens without network. Here is one of its pictures;
# ``kmat bench`` instead of ``kmat train`` would compare all methods over several seeds.
kmat(["report", str(root / "runs"), "--out", str(root / "report")])

from kmat.reports import figures
from kmat.reports.finished import load

((_, runs),) = load([root / "runs"]).values()
(page,) = figures.confusions(runs)
plt.figure(figsize=(9, 9 * page.get_figheight() / page.get_figwidth()))
page.savefig(root / "confusion.png", dpi=150)
plt.imshow(plt.imread(root / "confusion.png"))
plt.axis("off")
plt.tight_layout(pad=0)

"""Every command, and one clear line for each bad input."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import one_line

from kmat import phantom
from kmat.cli import COMMANDS, parse
from kmat.commands.help import EXITS
from kmat.errors import UserError
from kmat.methods import METHODS


@pytest.mark.parametrize(
    "method",
    [
        (),
        ("kmat", "--lambda-anc", 1),
        ("coop", "--csc"),
        ("cocoop",),
        ("kgcoop",),
        ("biomedcoop",),
        ("residual",),
        ("zero-shot",),
    ],
)
def test_train_each_method(kmat, options, method, tmp_path):
    code, out, err = kmat("train", *method, *options)
    assert code == 0, err
    assert "harmonic mean of both test sets" in out
    name = method[0] if method else "kmat"
    (folder,) = (tmp_path / "runs" / "manifest").glob(f"*/{name}-seed1")
    assert (folder / "result.json").exists()


def test_options_may_stand_before_the_method(kmat, options, tmp_path):
    assert kmat("train", *options, "--out", "run", "kmat", "--lambda-fgw", 0, "--no-csc")[0] == 0
    method = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["method"]
    assert (method["lambda_fgw"], method["csc"], method["msc"]) == (0.0, False, True)


def test_published_schedule(kmat, options, tmp_path):
    assert kmat("train", "kgcoop", "--published", *options[:-2], "--out", "run")[0] == 0
    schedule = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["schedule"]
    assert (schedule["epochs"], schedule["batch_size"], schedule["lr"]) == (100, 128, 0.002)


def test_numbers_of_synthetic_data_carry_the_banner(kmat, shapes_dir):
    code, out, err = kmat("train", "zero-shot", "--backbone", "phantom:seed0", "--out", "run")
    assert code == 0, err
    assert phantom.BANNER in out
    _, out, err = kmat("predict", "run", shapes_dir / "low")
    assert phantom.BANNER in err, "standard output is a CSV file"
    assert out.startswith("path,predicted,")


def test_train_reports_skipped_files(kmat, options, shapes_dir, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(shapes_dir, root)
    (root / "high" / "round_bright-test-0.png").write_bytes(b"broken")
    (root / "low" / "round_bright-test-1.png").unlink()
    with (root / "manifest.csv").open("a") as file:
        file.write("../escape.png,round_bright,high,train,p\nhigh/round_bright-test-1.png,,high,test,q\n")
        file.write("low/extra.png,,low,test,q\n")
    code, _, err = kmat("train", "coop", *options, "--task", root / "manifest.csv", "--out", "run")
    assert code == 0, err
    assert "5 files skipped" in err
    with (tmp_path / "run" / "skipped.csv").open(newline="") as file:
        rows = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert rows.pop("high/round_bright-test-0.png").startswith("unreadable: ")
    assert rows == {
        "low/round_bright-test-1.png": "no such file",
        "../escape.png": "path leads out of the image folder",
        "high/round_bright-test-1.png": "listed twice",
        "low/extra.png": "no such file",
    }


def test_evaluate_repeats_the_runs_scores(kmat, trained):
    code, out, err = kmat("evaluate", trained)
    assert code == 0, err
    result = json.loads((trained / "result.json").read_text())
    row = next(line for line in out.splitlines() if line.startswith("accuracy "))
    expected = [
        100 * result["scores"][m][s]["accuracy"] for m, s in (("high", "val"), ("high", "test"), ("low", "test"))
    ]
    assert [float(value) for value in row.split()[1:]] == pytest.approx(expected, abs=0.05)


def test_evaluate_on_another_task_matches_classes_by_name(kmat, trained, shapes_dir, tmp_path):
    source = (shapes_dir / "manifest.csv").read_text().splitlines()
    rows = [source[0], *(row for row in source if ",square_dark,high,test" in row)]
    (tmp_path / "other.csv").write_text("\n".join(rows) + "\n")
    code, out, err = kmat("evaluate", trained, "--task", tmp_path / "other.csv", "--root", shapes_dir)
    assert code == 0, err
    assert "no low-end test images" in err
    assert "accuracy in 'square_dark'" in out
    (tmp_path / "other.csv").write_text("\n".join(rows).replace("square_dark,high", "triangle,high"))
    code, _, err = kmat("evaluate", trained, "--task", tmp_path / "other.csv", "--root", shapes_dir)
    assert code == 1
    assert "classes that the run does not know: triangle" in one_line(err)


def test_predict_loose_files_and_folders(kmat, trained, shapes_dir, tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    for index in range(3):
        shutil.copy(shapes_dir / "low" / f"round_bright-test-{index}.png", loose / f"{index}.png")
    (loose / "broken.png").write_bytes(b"broken")
    single = shapes_dir / "low" / "square_dark-test-0.png"
    code, out, err = kmat("predict", trained, loose, single, "--out", "p.csv", "--modality", "low")
    assert code == 0, err
    assert out == ""
    assert "1 files skipped" in err
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [*(str(loose / f"{i}.png") for i in range(3)), str(single)]
    for row in rows:
        values = {name: float(row[name]) for name in ("round_bright", "square_dark")}
        assert sum(values.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(values, key=values.get)


def test_predict_writes_to_standard_output(kmat, trained, shapes_dir):
    code, out, err = kmat("predict", trained, shapes_dir / "high", "--modality", "high")
    assert code == 0, err
    assert out.splitlines()[0] == "path,predicted,round_bright,square_dark"
    assert len(out.splitlines()) == 1 + 28


@pytest.mark.parametrize("method", ["cocoop", "kgcoop", "biomedcoop"])
def test_a_baseline_is_loaded_as_it_was_trained(kmat, options, shapes_dir, tmp_path, method):
    """CoCoOp has no text features to store: its prompts are rebuilt, without the task."""
    code, trained, err = kmat("train", method, *options, "--init-words", "a photo of the", "--out", "run")
    assert code == 0, err
    code, evaluated, err = kmat("evaluate", "run")
    assert code == 0, err
    assert trained.startswith(evaluated.partition("95 % intervals")[0])
    (tmp_path / "run" / "split.csv").unlink()
    code, out, err = kmat("predict", "run", shapes_dir / "low")
    assert code == 0, err
    rows = list(csv.DictReader(line for line in out.splitlines() if "-test-" in line or line.startswith("path")))
    hits = sum(row["predicted"] in row["path"] for row in rows)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert hits == pytest.approx(result["scores"]["low"]["test"]["accuracy"] * len(rows))


def test_tasks_that_cannot_be_run_are_errors(kmat, shapes_dir, tmp_path):
    rows = (shapes_dir / "manifest.csv").read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join(row for row in rows if ",square_dark,low,test" not in row))
    code, out, err = kmat("tasks", "--task", tmp_path / "few.csv", "--root", shapes_dir)
    assert code == 1
    assert "round_bright" in out
    assert "few cannot be run: no readable low test image of 'square_dark'" in one_line(err)


def test_probabilities_of_every_image_are_kept(kmat, trained, tmp_path):
    rows = list(csv.DictReader((trained / "predictions.csv").read_text().splitlines()))
    result = json.loads((trained / "result.json").read_text())
    low = [row for row in rows if row["modality"] == "low"]
    scores = result["scores"]["low"]["test"]
    assert len(low) == scores["n"]
    assert sum(row["label"] == row["predicted"] for row in low) == pytest.approx(scores["accuracy"] * len(low))
    for row in rows:
        probabilities = {label: float(row[label]) for label in result["labels"]}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(probabilities, key=probabilities.get)
    code, out, err = kmat("evaluate", trained, "--out", "again.csv")
    assert code == 0, err
    assert (tmp_path / "again.csv").read_text() == (trained / "predictions.csv").read_text()
    assert "bootstrap over patients" in out
    assert "macro AUC" in out


def test_tasks_counts_images(kmat, shapes_dir):
    code, out, _ = kmat("tasks")
    assert code == 0
    assert "chest-phantom" in out
    assert phantom.CLASSES[0] in out
    assert phantom.BANNER in out
    code, out, _ = kmat("tasks", "--task", shapes_dir / "manifest.csv")
    assert code == 0
    assert out.splitlines()[-1].split() == ["square_dark", *"635635"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_demo(kmat, tmp_path, workers):
    arguments = ("demo", "--backbones", "phantom:seed0", "--seeds", 1, 2, "--epochs", 1, "--workers", workers)
    code, out, err = kmat(*arguments)
    assert code == 0, err
    assert phantom.BANNER in out
    for row in ("floor: chance", "floor: largest class", "zero-shot template", "zero-shot descriptions", "CoOp shared"):
        assert f"\n{row}" in out
    for row in ("CoOp class-specific", "K-MaT no FGW", "K-MaT  ", "Residual transport  "):
        assert f"\n{row}" in out
    for row in ("K-MaT", "Residual transport"):
        assert f"{row} minus the other rows" in out
    assert "lambda_anc, one of 10, 1, by high-end validation accuracy" in out
    folder = tmp_path / "runs" / "demo"
    kinds = {f"results.{kind}" for kind in ("csv", "json", "md", "png", "tex")}
    assert {p.name for p in folder.iterdir()} == {*kinds, "results-runs.csv", "runs"}
    results = json.loads((folder / "results.json").read_text())
    assert results["banners"] == {"chest-phantom": phantom.BANNER}
    for floor in ("floor: chance", "floor: largest class"):
        score = results["summary"]["chest-phantom"]["phantom:seed0"][floor]["low_accuracy"]["mean"]
        assert score == pytest.approx(100 / 3)
    first = (folder / "results.csv").read_text()
    code, _, err = kmat(*arguments)
    assert code == 0
    assert "14 of 14 runs are already finished and used as they are" in err
    assert (folder / "results.csv").read_text() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--task", "nowhere.csv"), "neither a file or folder nor a built-in task"),
        (("train", "--backbone", "nonsense"), "expected biomedclip"),
        (("train", "--backbone", "phantom:seed99"), "choose one of seed0"),
        (("train", "--shots", "0"), "--shots 0: expected at least 1"),
        (("train", "--epochs", "0"), "--epochs 0: expected at least 1"),
        (("train", "--views", "0"), "--views 0: expected at least 1"),
        (("train", "--seed", "99999999999999999999"), "--seed 99999999999999999999: expected"),
        (("train", "--lr", "-1"), "--lr -1.0: expected at least 0"),
        (("train", "--lr", "nan"), "--lr nan: expected at least 0"),
        (("train", "--momentum", "2"), "--momentum 2.0: expected 0 to 1"),
        (("train", "--crop-ratio", "0", "1"), "--crop-ratio 0.0: expected 0.001"),
        (("train", "--crop-scale", "0.5", "0.2"), "--crop-scale 0.2: expected 0.5 to 1"),
        (("train", "coop", "--n-ctx", "-1"), "--n-ctx -1: expected at least 1"),
        (("train", "kmat", "--epsilon", "0"), "--epsilon 0.0: expected at least"),
        (("train", "kmat", "--alpha", "3"), "--alpha 3.0: expected 0 to 1"),
        (("train", "kmat", "--lambda-anc", "inf"), "--lambda-anc inf: expected at least 0"),
        (("train", "kmat", "--max-iter", "0"), "--max-iter 0: expected at least 1"),
        (("bench", "--methods"), "--methods: expected at least one"),
        (("train", "--device", "quantum"), "--device 'quantum'"),
        (("train", "--published"), "expected one of the methods coop, cocoop, kgcoop, biomedcoop"),
        (("train", "coop", "--published", "--epochs", "2"), "--published sets the whole schedule"),
        (("train", "--resume", "--overwrite"), "exclude each other"),
        (("train", "--descriptions", "nowhere.json"), "cannot read descriptions nowhere.json"),
        (("train", "--high", "ct"), "--high means nothing to --task chest-phantom, which takes --descriptions"),
        (("evaluate", "nowhere", "--high", "ct"), "options about images need --task"),
        (("evaluate", "nowhere"), "nowhere holds no finished run"),
        (("predict", "nowhere", "."), "no images in ."),
        (("predict", "nowhere", "absent.png"), "absent.png does not exist"),
        (("tasks", "--task", "nowhere"), "neither a file or folder"),
        (("demo", "--workers", "0"), "--workers 0: expected at least 1"),
        (("bench", "--seeds", "1", "1"), "--seeds: 1, 1 names one twice"),
        (("bench", "--published", "--epochs", "2"), "--published sets the baselines' schedules"),
        (("train", "kmat", "--low-start", "high", "--no-msc"), "--low-start high: without --msc"),
        (("ablate", "--task", "nowhere.csv"), "neither a file or folder nor a built-in task"),
    ],
)
def test_bad_input_is_one_line(kmat, arguments, message):
    code, _, err = kmat(*arguments)
    assert code == 1
    assert message in one_line(err)


@pytest.mark.parametrize(
    "arguments", [(), ("fly",), ("train", "--speed", "9"), ("train", "--shots", "many"), ("predict",)]
)
def test_usage_errors_go_to_stderr(kmat, arguments):
    code, out, err = kmat(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert err


def test_a_mistyped_option_is_looked_for_in_its_own_command(kmat):
    code, _, err = kmat("train", "kmat", "--shotz", "4")
    assert code == 2
    assert "--shots INT" in err
    assert "kmat train --help" in err
    assert "ablate" not in err


def test_a_toy_backbone_on_own_images_is_told(kmat, shapes_dir):
    options = ("--task", shapes_dir / "manifest.csv", "--shots", 2, "--epochs", 1, "--out", "toy")
    code, _, err = kmat("train", "coop", *options)
    assert code == 0, err
    assert "phantom:seed0 is a tiny model that has seen no image like these" in err


def test_one_class_for_all_images_is_told(kmat, options):
    code, _, err = kmat("train", "zero-shot", *options, "--out", "toy")
    assert code == 0, err
    assert "images are taken for" in err


def test_the_version_is_said_at_once(capsys):
    from kmat.__main__ import main

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kmat ")


BASH = shutil.which("bash")
PAGES = [(), *((name,) for name in COMMANDS), *(("train", name) for name in METHODS)]


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("words", PAGES)
def test_help_fits_a_screen_and_begins_with_an_example(kmat, monkeypatch, words, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = kmat(*words, "--help")
    assert (code, err) == (0, "")
    first, *lines = out.splitlines()
    assert first.startswith("example: ")
    assert " ".join(("kmat", *words)) in first
    assert len(lines) < 40
    assert max(map(len, lines)) <= min(width, 100)


def test_the_examples_of_help_can_be_parsed():
    for kind in COMMANDS.values():
        if kind is not COMMANDS["completion"]:  # which is given to a shell
            assert isinstance(parse(shlex.split(kind.example)[1:]), kind)


def test_help_and_the_guide_name_the_same_exit_codes(kmat):
    guide = (Path(__file__).parents[2] / "docs" / "kmat.md").read_text()
    table = guide.partition("| exit code |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == list(map(str, EXITS))
    assert re.findall(r"^  (\d+)  ", kmat("--help")[1], re.MULTILINE) == list(map(str, EXITS))


def test_a_reader_that_has_seen_enough_is_no_traceback():
    """As in ``kmat descriptions | head``: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "kmat", "descriptions", "digits"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_explains_options_and_names_the_others(kmat):
    out = kmat("--help")[1]
    assert all(f"\n  {command} " in out for command in COMMANDS)
    out = kmat("train", "--help")[1]
    assert "\n  --task          A built-in task" in out
    assert "others: --follow-links" in out
    assert "--lambda-anc" not in out
    out = kmat("train", "residual", "--help")[1]
    assert "\n  --lambda-anc  Weight of the anchor as in K-MaT; 0 leaves" in out
    assert "\n  --no-csc      Class-specific context" in out, "inherited"
    assert kmat("evaluate", "--help")[1].count("[its own]") == 1
    assert "The paper gives no value" in kmat("train", "kmat", "--help-verbose")[1]


def test_help_and_errors_of_typing_wait_for_no_library_that_is_slow_to_import():
    """Row by row: each command's help, its full help, a mistyped option, a bad value, the version, a completion."""
    code = """
import contextlib, io, sys
from kmat.__main__ import main
from kmat.cli import COMMANDS
asked = [["--help"], ["--version"], ["--help-verbose"], [], ["fly"], ["completion", "bash"], ["train", "--shots", "0"]]
for name in COMMANDS:
    asked += [[name, "--help"], [name, "--help-verbose"], [name, "--no-such-option"]]
for arguments in asked:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(arguments)
slow = {"torch", "open_clip", "transformers", "timm", "matplotlib", "sklearn", "scipy", "pandas", "numba", "ray"}
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def bash_completes(kmat, *words):
    """What bash offers for the last word, with the script that kmat writes."""
    script = kmat("completion", "bash")[1]
    line = " ".join(words)
    ask = f"""
{script}
COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}
$(complete -p kmat | sed 's/.*-F \\([^ ]*\\) .*/\\1/') kmat
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([BASH, "-c", ask], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_completes_commands_methods_options_and_values(kmat):
    assert bash_completes(kmat, "kmat", "") >= set(COMMANDS)
    assert bash_completes(kmat, "kmat", "sh") == {"shots"}
    assert bash_completes(kmat, "kmat", "train", "kmat", "--lambda-f") == {"--lambda-fgw"}
    assert bash_completes(kmat, "kmat", "train", "kg") == {"kgcoop"}
    assert bash_completes(kmat, "kmat", "train", "--augment", "") == {"auto", "none", "crop"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells_names_every_command(kmat, shell):
    code, out, err = kmat("completion", shell)
    assert (code, err) == (0, "")
    assert all(command in out for command in COMMANDS)


def test_anchor_without_descriptions_names_both_ways_out(kmat, shapes_dir, tiny_dir, tmp_path):
    code, _, err = kmat("train", "--task", shapes_dir / "manifest.csv", "--backbone", f"local-dir:{tiny_dir}")
    assert code == 1
    assert "--descriptions FILE" in one_line(err)
    assert "--lambda-anc 0" in err
    assert not (tmp_path / "runs").exists(), "nothing was begun"


def test_a_task_without_two_classes_to_train_on(kmat, shapes_dir, tiny_dir, tmp_path):
    rows = (shapes_dir / "manifest.csv").read_text().splitlines()
    (tmp_path / "m.csv").write_text("\n".join(row for row in rows if "square_dark,high,train" not in row))
    arguments = ("train", "coop", "--task", "m.csv", "--root", shapes_dir, "--backbone", f"local-dir:{tiny_dir}")
    code, _, err = kmat(*arguments)
    assert code == 1
    assert "need readable training images of modality 'high' in at least two classes" in one_line(err)


def test_a_finished_run_is_not_reused_silently(kmat, options):
    assert kmat("train", "coop", *options, "--out", "run")[0] == 0
    code, _, err = kmat("train", "coop", *options, "--out", "run")
    assert code == 1
    assert "--resume, --overwrite or another --out" in one_line(err)
    code, _, err = kmat("train", "coop", *options, "--out", "run", "--resume")
    assert code == 0
    assert "already finished" in err
    assert kmat("train", "coop", *options, "--out", "run", "--overwrite")[0] == 0


def test_damaged_runs_are_one_line(kmat, trained, tmp_path, shapes_dir):
    images = shapes_dir / "low"
    for name, content, message in (
        ("result.json", "{", "result.json: Expecting"),
        ("config.json", "{}", "config.json"),
        ("prompts.safetensors", "", "prompts.safetensors: damaged"),
    ):
        run = shutil.copytree(trained, tmp_path / f"broken-{name}")
        (run / name).write_text(content)
        code, _, err = kmat("predict", run, images)
        assert code == 1
        assert message in one_line(err)


def test_another_backbone_under_the_same_name_is_refused(kmat, trained, tmp_path, shapes_dir, tiny_dir):
    from conftest import write_backbone

    run = shutil.copytree(trained, tmp_path / "run")
    other = write_backbone(tmp_path / "other", seed=5)
    config = run / "config.json"
    config.write_text(config.read_text().replace(str(tiny_dir), str(other)))
    code, _, err = kmat("predict", run, shapes_dir / "low")
    assert code == 1
    assert "is not the one that" in one_line(err)


def test_unwritable_output_and_unreadable_images(kmat, trained, tmp_path, shapes_dir):
    code, _, err = kmat("predict", trained, shapes_dir / "low", "--out", "no/such/folder.csv")
    assert code == 1
    assert "cannot write no/such/folder.csv" in one_line(err)
    (tmp_path / "broken.png").write_bytes(b"broken")
    code, _, err = kmat("predict", trained, "broken.png")
    assert code == 1
    assert "none of the 1 images can be read; the first: unreadable" in one_line(err)


def test_interruption_is_said(kmat, options, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kmat.runs.run.train", interrupted)
    code, _, err = kmat("train", "coop", *options)
    assert code == 130
    assert "--resume" in err


def test_warnings_are_lines_too(kmat, options, monkeypatch, recwarn):
    def warning(*_, **__):
        warnings.warn("something is odd", UserWarning, stacklevel=1)
        raise UserError("stop")

    monkeypatch.setattr("kmat.runs.run.train", warning)
    warnings.simplefilter("always")
    code, _, err = kmat("train", "coop", *options)
    assert code == 1
    assert "warning: something is odd\n" in err
    assert not recwarn.list


def test_bench_and_ablate(kmat, shapes_dir, tiny_dir, tmp_path):
    options = ("--task", shapes_dir / "manifest.csv", "--descriptions", shapes_dir / "descriptions.json")
    options += ("--backbone", f"local-dir:{tiny_dir}", "--seeds", 1, 2, "--shots", 4, "--workers", 1)
    code, out, err = kmat("bench", *options, "--published", "--methods", "cocoop", "biomedcoop")
    assert code == 0, err
    assert "CoCoOp" in out
    assert "K-MaT" not in out
    assert "schedules they were published with" in out
    runs = tmp_path / "runs" / "bench" / "runs"
    (config,) = runs.glob("*/*/cocoop-as-published-seed2/config.json")
    assert json.loads(config.read_text())["config"]["schedule"]["epochs"] == 10
    code, out, err = kmat("ablate", *options, "--epochs", 1)
    assert code == 0, err
    assert "\n8 all" in out
    assert "lambda_anc, one of 10, 1" in out
    assert "| 8 all | x | x | x | x |" in (tmp_path / "runs" / "ablate" / "results.md").read_text()

    code, out, err = kmat("report", "runs/bench", "runs/ablate")
    assert code == 0, err
    folder = tmp_path / "runs" / "report"
    kinds = {f"{kind}{end}" for kind in ("bench", "ablate") for end in (".md", ".tex", ".csv", "-runs.csv")}
    assert {p.name for p in folder.iterdir()} == {"report.html", *kinds}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in page, "it opens without network"
    assert all(text in page for text in (">8 all<", ">CoCoOp<", "one of 10, 1", "without the anchor, as in the paper"))
    assert (
        page.count('<img src="data:image/svg+xml;base64,') == 11
    )  # accuracies, two of classes, FGW's three twice, two of curves
    assert kmat("report", "runs/bench", "runs/ablate", "--out", "again")[0] == 0
    assert (tmp_path / "again" / "report.html").read_text(encoding="utf-8") == page


def test_beyond_the_paper(kmat, shapes_dir, tiny_dir, tmp_path):
    options = ("--task", shapes_dir / "manifest.csv", "--descriptions", shapes_dir / "descriptions.json")
    options += ("--backbone", f"local-dir:{tiny_dir}", "--seeds", 1, 2, "--shots", 4, "--workers", 1, "--epochs", 1)
    code, out, err = kmat("ablate", "--rows", "beyond", *options)
    assert code == 0, err
    assert "manifest: rows minus K-MaT no FGW" in out
    assert "manifest: rows minus K-MaT\n" in out
    with (tmp_path / "runs" / "beyond" / "results-paired.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cold = [row for row in rows if (row["method"], row["minus"], row["metric"]) == ("diagonal", "K-MaT", "h_accuracy")]
    runs = json.loads((tmp_path / "runs" / "beyond" / "results.json").read_text())["entries"]
    h = {(run["method"], run["seed"]): run["h_accuracy"] for run in runs}
    differences = [h["diagonal", seed] - h["K-MaT", seed] for seed in (1, 2)]
    assert float(cold[0]["mean"]) == pytest.approx(sum(differences) / 2)
    assert float(cold[0]["standard error"]) == pytest.approx(abs(differences[0] - differences[1]) / 2)
    latex = (tmp_path / "runs" / "beyond" / "results.tex").read_text()
    assert r"\caption{manifest: rows minus K-MaT no FGW." in latex
    code, _, err = kmat("report", "runs/beyond")
    assert code == 0, err
    page = (tmp_path / "runs" / "report" / "report.html").read_text(encoding="utf-8")
    assert "rows minus K-MaT no FGW" in page
    assert ">from high, no FGW<" in page
    assert (tmp_path / "runs" / "report" / "beyond-paired.csv").exists()


def test_a_failed_run_is_left_out_of_the_tables_and_told_at_the_end(kmat, shapes_dir, tiny_dir, tmp_path):
    options = ("--task", shapes_dir / "manifest.csv", "--descriptions", shapes_dir / "descriptions.json")
    options += ("--backbone", f"local-dir:{tiny_dir}", "--seeds", 1, 2, "--shots", 4, "--workers", 1, "--epochs", 1)
    options += ("--methods", "zero-shot", "kmat", "--out", "grid")
    assert kmat("bench", *options)[0] == 0
    runs = tmp_path / "grid" / "runs"
    (failing,) = runs.glob("*/*/zero-shot-seed2")
    whole = json.loads((failing / "result.json").read_text())
    shutil.rmtree(failing)
    failing.mkdir()
    (failing / "stray.txt").touch()
    code, out, err = kmat("bench", *options)
    assert code == 1
    last = err.splitlines()[-1]
    assert "runs failed, and the tables are without them" in last
    assert "holds files but no run" in last
    assert f"the first {failing.relative_to(runs).as_posix()}" in last
    assert "K-MaT no FGW" in out
    saved = json.loads((tmp_path / "grid" / "results.json").read_text())
    assert {e["seed"] for e in saved["entries"] if e["method"] == "zero-shot template"} == {1}
    assert {e["seed"] for e in saved["entries"] if e["method"] == "K-MaT"} == {1, 2}
    assert "holds files but no run" in (tmp_path / "grid" / "results.md").read_text()
    assert kmat("report", "grid")[0] == 0
    assert "holds files but no run" in (tmp_path / "runs" / "report" / "report.html").read_text()
    (failing / "stray.txt").unlink()
    failing.rmdir()
    assert kmat("bench", *options)[0] == 0, "mended, the same command does what was left"
    assert json.loads((failing / "result.json").read_text()) == whole
    for chosen_by in runs.glob("*/*/kmat-lambda_anc-1-lambda_fgw-0-seed2"):
        shutil.rmtree(chosen_by)
        chosen_by.mkdir()
        (chosen_by / "stray.txt").touch()
    code, _, err = kmat("bench", *options)
    assert code == 1
    saved = json.loads((tmp_path / "grid" / "results.json").read_text())
    assert "K-MaT" not in {entry["method"] for entry in saved["entries"]}, "its lambda_anc could not be chosen"
    assert any("Without anchored rows" in note for note in saved["notes"])


def test_report_on_single_runs(kmat, trained, tmp_path):
    code, _, err = kmat("report", trained)
    assert code == 0, err
    page = (tmp_path / "runs" / "report" / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">K-MaT, shots 4, epochs 2</th>' in page
    assert '<th scope="row">floor: chance</th>' in page
    assert "Single runs" in page
    assert "Table 2" not in page
    assert "<td>–</td>" not in page


def test_report_on_a_grid_and_a_single_run(kmat, trained, tmp_path):
    from kmat.grids.results import Entry, Results
    from kmat.reports.report import write_results
    from kmat.runs.evaluation import Means

    scores = dict.fromkeys(("high", "low"), Means(0.5, 0.5))
    write_results(Results("bench", [Entry.of("t", "K-MaT", "b", 1, "", scores)], {"t": ""}, ()), tmp_path / "grid")
    code, _, err = kmat("report", "grid", trained)
    assert code == 0, err
    page = (tmp_path / "runs" / "report" / "report.html").read_text(encoding="utf-8")
    rows = re.findall('<th scope="row">(.*?)</th>', page)
    assert rows[:4] == ["K-MaT", "floor: chance", "floor: largest class", "K-MaT, shots 4, epochs 2, single"]
    assert "<td>–</td>" not in page


def test_report_on_damaged_folders_is_one_line(kmat, trained, tmp_path):
    from kmat.grids.results import Entry, Results
    from kmat.reports.report import write_results
    from kmat.runs.evaluation import Means

    (tmp_path / "empty").mkdir()
    assert "empty holds neither a finished grid nor a finished run" in one_line(kmat("report", "empty")[2])
    scores = dict.fromkeys(("high", "low"), Means(0.5, 0.5))
    write_results(Results("bench", [Entry.of("t", "m", "b", 1, "../out", scores)], {}, ()), tmp_path / "grid")
    assert "the run '../out' leads out of the folder" in one_line(kmat("report", "grid")[2])
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "prompts.safetensors").write_text("")
    assert "run is not a complete run" in one_line(kmat("report", run)[2])


def test_a_grid_needs_test_images_of_both_ends(kmat, shapes_dir, tiny_dir, tmp_path):
    rows = (shapes_dir / "manifest.csv").read_text().splitlines()
    (tmp_path / "m.csv").write_text("\n".join(row for row in rows if ",low,test" not in row))
    backbone = ("--backbone", f"local-dir:{tiny_dir}", "--seeds", 1, "--workers", 1)
    options = ("--root", shapes_dir, "--split-seed", 3, *backbone)
    code, _, err = kmat("bench", "--task", "m.csv", *options, "--methods", "zero-shot")
    assert code == 1
    assert "m lacks readable test images of one modality" in one_line(err)
    (tmp_path / "m.csv").write_text("\n".join(row for row in rows if ",high,val" not in row))
    options = (*options, "--descriptions", shapes_dir / "descriptions.json", "--epochs", 1)
    code, _, err = kmat("bench", "--task", "m.csv", *options, "--methods", "kmat")
    assert code == 1
    assert "no high-end validation images to choose lambda_anc on" in one_line(err)


def test_scores_by_number_of_shots(kmat, shapes_dir, tiny_dir, tmp_path):
    options = ("--task", shapes_dir / "manifest.csv", "--descriptions", shapes_dir / "descriptions.json")
    options += ("--backbone", f"local-dir:{tiny_dir}", "--seeds", 1, "--workers", 1, "--epochs", 1)
    options += ("--methods", "zero-shot", "coop", "--counts", 4, 1, "--out", "shots")
    code, _, err = kmat("shots", *options, "--dry-run")
    assert code == 0
    assert err.count("at most 4 runs") == 2
    assert not (tmp_path / "shots").exists()
    code, _, err = kmat("shots", *options)
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "shots" / "shots.csv").read_text().splitlines()))
    assert list(dict.fromkeys(row["shots"] for row in rows)) == ["1", "4"]
    assert {row["method"] for row in rows} >= {"CoOp shared", "zero-shot template"}
    assert (tmp_path / "shots" / "shots.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "shots" / "shots-4" / "results.json").exists()
    assert "kmat shots takes several" in kmat("shots", *options, "--shots", 3)[2]
    assert "expected different numbers from 1 on" in kmat("shots", "--counts", 2, 2)[2]

"""What is made of a grid's scores, and the forms of its tables."""

import csv
import json
from dataclasses import asdict, replace
from statistics import fmean, stdev

import pytest
from PIL import Image
from rich.console import Console

from kmat.errors import UserError
from kmat.grids.results import ALL, AVERAGE, METRICS, Cell, Entry, Results
from kmat.grids.rows import ABLATION, BENCH, BEYOND, WITHOUT_FGW
from kmat.methods import KMaTConfig
from kmat.reports import printed as paper
from kmat.reports.report import write_results
from kmat.reports.tables import backbone_tables, main_tables
from kmat.runs.evaluation import Means, harmonic_mean


def entry(method, backbone, seed, high, low, task="t_1"):
    scores = {"high": Means(high / 100, high / 200), "low": Means(low / 100, low / 200)}
    return Entry.of(task, method, backbone, seed, f"runs/{method}", scores)


def grid(table, task="t_1"):
    return [entry(*key, seed, *pair, task) for key, seeds in table.items() for seed, pair in enumerate(seeds)]


@pytest.fixture
def entries():
    return grid(
        {
            ("K-MaT", "a:one"): [(60, 40), (64, 44)],
            ("K-MaT", "b"): [(70, 30), (72, 32)],
            ("theirs", "a:one"): [(50, 50), (50, 50)],
            ("theirs", "b"): [(71, 31), (71, 31)],
        }
    )


@pytest.fixture
def results(entries):
    return Results("bench", entries, {"t_1": "only a test"}, ("a note",))


def test_means_over_seeds_and_spread_over_backbones(results):
    assert results.cell("t_1", "K-MaT", "a:one", "high_accuracy") == Cell(62, pytest.approx(stdev([60, 64])))
    overall = results.cell("t_1", "K-MaT", ALL, "low_accuracy")
    assert overall == Cell(36.5, pytest.approx(stdev([42, 31])))
    assert str(Cell.of([1.25])) == "1.2"
    assert str(Cell.of([1.0, 2.0])) == "1.5±0.7"


def test_both_conventions_for_h(results):
    per_seed = [harmonic_mean(60, 40), harmonic_mean(64, 44)]
    assert results.cell("t_1", "K-MaT", "a:one", "h_accuracy").mean == pytest.approx(fmean(per_seed))
    of_means = harmonic_mean(62, 42)
    assert results.cell("t_1", "K-MaT", "a:one", "hm_accuracy") == Cell(pytest.approx(of_means), None)
    assert of_means > fmean(per_seed)
    by_backbone = [of_means, harmonic_mean(71, 31)]
    assert results.cell("t_1", "K-MaT", ALL, "hm_accuracy").mean == pytest.approx(fmean(by_backbone))


def test_average_over_tasks_spreads_over_seeds(entries):
    other = grid({("K-MaT", "c"): [(90, 10), (80, 20)]}, task="t_2")
    results = Results("bench", entries + other, {}, ())
    by_seed = [fmean([fmean([60, 70]), 90]), fmean([fmean([64, 72]), 80])]
    assert results.cell(AVERAGE, "K-MaT", ALL, "high_accuracy") == Cell(
        pytest.approx(fmean(by_seed)), pytest.approx(stdev(by_seed))
    )
    assert results.cell(AVERAGE, "theirs", ALL, "high_accuracy") is None, "not on every task"
    average = main_tables(results)[0]
    assert average.title == "average over 2 tasks"
    assert [name for name, _ in average.rows] == ["K-MaT"], "what is not on every task is not in the average"
    uneven = Results("bench", [*entries, other[0]], {}, ())
    assert uneven.cell(AVERAGE, "K-MaT", ALL, "high_accuracy").spread is None, "the seeds differ"


def test_tables_have_only_rows_with_numbers():
    floor = "floor: chance"
    first = grid({(floor, "a"): [(33, 33)], ("K-MaT", "a"): [(60, 40)], ("theirs", "a"): [(50, 45)]}, task="t_1")
    second = grid({(floor, "b"): [(50, 50)], ("another", "b"): [(70, 60)]}, task="t_2")
    results = Results("bench", first + second, {}, ())
    found = [*main_tables(results), *backbone_tables(results)]
    assert [(table.title, [name for name, _ in table.rows]) for table in found] == [
        ("t_1, a", [floor, "K-MaT", "theirs"]),
        ("t_1: K-MaT minus the other rows", [floor, "theirs"]),
        ("t_2, b", [floor, "another"]),
    ], "no average of floors, and no difference to what is not there"
    assert all(cell.text != "–" for table in found for _, cells in table.rows for cell in cells)


def test_losses_stand_beside_wins(results):
    table = main_tables(results)[1]
    assert table.title == "t_1: K-MaT minus the other rows"
    assert table.header == ("minus", "Hi", "Lo", "H", "H one", "H b")
    ((name, cells),) = table.rows
    assert (name, *(cell.text for cell in cells[:2])) == ("theirs", "+6.0±1.5", "-4.0±1.5")


def test_paired_differences_have_standard_errors_over_seeds(entries):
    other = grid({("K-MaT", "c"): [(90, 10), (80, 20)], ("theirs", "c"): [(90, 5), (80, 25)]}, task="t_2")
    results = Results("beyond", entries + other, {}, ())
    one = results.paired("t_1", "K-MaT", "theirs", "a:one", "low_accuracy")  # -10, -6
    assert (one.mean, one.error) == (pytest.approx(-8), pytest.approx(2))
    both = results.paired("t_1", "K-MaT", "theirs", ALL, "low_accuracy")  # with -1, 1: -5.5, -2.5 by seed
    assert (both.mean, both.error) == (pytest.approx(-4), pytest.approx(1.5))
    average = results.paired(AVERAGE, "K-MaT", "theirs", ALL, "low_accuracy")  # with 5, -5: -0.25, -3.75
    assert (average.mean, average.error) == (pytest.approx(-2), pytest.approx(1.75))
    assert str(both) == "-4.0±1.5"
    assert (
        str(Results("beyond", other[:1] + other[2:3], {}, ()).paired("t_2", "K-MaT", "theirs", ALL, "high_accuracy"))
        == "+0.0"
    )
    lacking = Results("beyond", [*entries[:2], *entries[3:], *other], {}, ())  # K-MaT's first seed on b
    assert lacking.paired("t_1", "K-MaT", "theirs", ALL, "low_accuracy").mean == pytest.approx(-2.5)
    assert lacking.paired("t_1", "K-MaT", "nothing", ALL, "low_accuracy") is None


def test_beyond_has_tables_of_what_fgw_adds_and_against_k_mat_with_and_without_it():
    cells = {(name, b): [(50, 50), (52, 50)] for name in BEYOND for b in ("one", "two")}
    found = main_tables(Results("beyond", grid(cells), {}, ()))
    assert [table.title for table in found] == [
        "t_1, all backbones",
        "t_1: what FGW adds",
        "t_1: rows minus K-MaT no FGW",
        "t_1: rows minus K-MaT",
    ]
    assert [name for name, _ in found[1].rows] == list(WITHOUT_FGW)
    for table, base in zip(found[2:], ("K-MaT no FGW", "K-MaT"), strict=True):
        assert table.header == ("row", "Lo", "Lo F1", "H", "H one", "H two")
        assert [name for name, _ in table.rows] == [name for name in BEYOND if name != base]
        assert Console(width=200).measure(table.console()).maximum <= 80


def test_what_fgw_adds_is_the_difference_to_the_same_without_it():
    assert len(WITHOUT_FGW) == 4
    for name, without in WITHOUT_FGW.items():
        assert replace(BEYOND[name], lambda_fgw=0) == BEYOND[without]
    cells = {("from high", "b"): [(50, 60)], ("from high, no FGW", "b"): [(50, 57)], ("K-MaT", "b"): [(50, 50)]}
    _, adds, minus = main_tables(Results("beyond", grid(cells), {}, ()))
    assert minus.title == "t_1: rows minus K-MaT"
    assert [(name, cells[0].text) for name, cells in adds.rows] == [("from high", "+3.0")]


def test_every_row_beyond_the_paper_differs_from_it_in_one_thing():
    ours = asdict(BEYOND["K-MaT"])
    assert ours == asdict(KMaTConfig())
    assert len({repr(method) for method in BEYOND.values()}) == len(BEYOND)
    for name, method in BEYOND.items():
        changed = {key for key, value in asdict(method).items() if value != ours[key]}
        assert len(changed - {"lambda_fgw"}) <= 1
        assert (method.lambda_fgw == 0) is ("no FGW" in name)


def test_best_of_a_column_is_marked_ties_included_floors_not():
    cells = {("floor: chance", "b"): [(90, 90)], ("one", "b"): [(50.04, 10)], ("two", "b"): [(49.96, 20)]}
    (table,) = main_tables(Results("bench", grid(cells), {}, ()))
    best = {name: [cell.best for cell in cells[:3:2]] for name, cells in table.rows}
    assert best == {"floor: chance": [False, False], "one": [True, False], "two": [True, True]}


def test_files(results, tmp_path):
    write_results(results, tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text.startswith("**only a test**")
    assert "| K-MaT | **66.5±6.4** |" in text
    assert "a note" in text
    with (tmp_path / "results-runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert float(rows[0]["high_accuracy"]) == 60
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["backbone"] == ALL and row["method"] == "K-MaT"]
    assert [row["metric"] for row in rows] == list(METRICS)
    assert float(rows[0]["mean"]) == 66.5
    assert rows[0]["paper"] == ""
    latex = (tmp_path / "results.tex").read_text(encoding="utf-8")
    assert latex.startswith("% only a test\n")
    assert r"K-MaT & \textbf{66.5$\pm$6.4} &" in latex
    assert r"\caption{t\_1, all backbones." in latex
    with Image.open(tmp_path / "results.png") as image:
        assert image.size[0] > 1000
    saved = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert saved["summary"]["t_1"][ALL]["K-MaT"]["low_accuracy"]["mean"] == 36.5
    again = Results.read(tmp_path / "results.json")
    assert (again.entries, again.banner, again.notes) == (results.entries, "only a test", ("a note",))


def test_damaged_results_are_one_line(tmp_path):
    (tmp_path / "results.json").write_text('{"entries": []}')
    with pytest.raises(UserError, match="cannot read the results"):
        Results.read(tmp_path / "results.json")


def test_console_tables_fit_eighty_columns(results):
    for table in [*main_tables(results), *backbone_tables(results)]:
        assert Console(width=200).measure(table.console()).maximum <= 80


def test_the_papers_numbers_stand_beside_its_tasks():
    found = main_tables(Results("bench", grid({("K-MaT", "b"): [(50, 40)]}, task="chest"), {}, ()))[0]
    assert [cell.paper for cell in found.rows[0][1]] == ["54.5", "50.8", "40.6", "31.1", "42.3", "35.4", "42.3", "35.4"]
    assert "[54.5]" in found.markdown()
    assert "In brackets" in found.caption
    ours = main_tables(Results("bench", grid({("K-MaT", "b"): [(50, 40)]}), {}, ()))[0]
    assert "[" not in ours.markdown()


def test_the_papers_average_needs_all_its_tasks():
    entries = [each for task in sorted(paper.TASKS) for each in grid({("K-MaT", "b"): [(50, 40)]}, task)]
    assert main_tables(Results("bench", entries, {}, ()))[0].rows[0][1][0].paper == "54.8"
    some = [each for each in entries if each.task != "skin1"]
    assert main_tables(Results("bench", some, {}, ()))[0].rows[0][1][0].paper == ""
    rows = [each for task in sorted(paper.TASKS) for each in grid({(name, "b"): [(50, 40)] for name in ABLATION}, task)]
    (table, *_) = main_tables(Results("ablate", rows, {}, ()))
    assert [cell.paper for cell in table.rows[-1][1]][4:] == [
        "54.8",
        "49.3",
        "39.2",
        "29.9",
        "44.1",
        "36.2",
        "10.1",
        "13.8",
    ]


def test_the_papers_tables_are_whole_and_its_averages_are_means():
    """Every average it prints is the mean of its tasks, but for BiomedCLIP's Hi and what follows from it."""
    printed = {
        task: {
            row: list(paper.beside(Results("bench", grid({(row, "b"): [(1, 1)]}, task), {}, ()), task, row).values())
            for row in paper.ROWS
        }
        for task in paper.TASKS
    }
    entries = [each for task in paper.TASKS for each in grid({(row, "b"): [(1, 1)] for row in paper.ROWS}, task)]
    everything = Results("bench", entries, {}, ())
    for row in paper.ROWS:
        averages = list(paper.beside(everything, AVERAGE, row).values())
        means = [fmean(printed[task][row][column] for task in paper.TASKS) for column in range(len(METRICS))]
        skipped = 2 if row == "zero-shot template" else 0
        assert averages[skipped:] == pytest.approx(means[skipped:], abs=0.11)
    assert set(paper.ROWS) <= set(BENCH)


def test_ablation_is_relative_to_its_first_row():
    cells = {(name, "b"): [(50, 50)] for name in ABLATION} | {("8 all", "b"): [(60, 60)], ("2 CSC", "b"): [(40, 40)]}
    (table,) = main_tables(Results("ablate", grid(cells), {}, ()))
    assert table.header[:5] == ("row", "CSC", "MSC", "anchor", "FGW")
    rows = {name: [cell.text for cell in cells] for name, cells in table.rows}
    assert rows["8 all"][:4] == ["x"] * 4
    assert rows["3 CSC, MSC"][:4] == ["x", "x", "", ""]
    assert [rows[name][-2] for name in ("1 cross-entropy", "2 CSC", "8 all")] == ["+0.0", "-20.0", "+20.0"]


def test_rows_of_table_3_are_all_different():
    methods = [switches.method() for switches in ABLATION.values()]
    assert len({repr(method) for method in methods}) == 8
    assert methods[-1] == BENCH["K-MaT"]
    assert methods[3] == BENCH["K-MaT no FGW"]

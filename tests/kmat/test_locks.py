"""One writer per folder, files that are whole, and processes that end as they are told to."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap

import pytest
from safetensors.torch import load_file

from kmat.cli import main
from kmat.errors import UserError
from kmat.methods import CoOpConfig
from kmat.model.features import FeatureCache
from kmat.runs.config import RunConfig
from kmat.runs.result import Result
from kmat.runs.run import train
from kmat.runs.schedule import Schedule
from kmat.storage import atomic, lock
from kmat.storage.lock import Lock

HOLDER = """
    import sys, time
    from pathlib import Path
    from kmat.storage.lock import Lock

    with Lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def go(tiny, tiny_dir, shapes, shapes_config, tmp_path):
    config = RunConfig(
        method=CoOpConfig(),
        data=shapes_config,
        backbone=f"local-dir:{tiny_dir}",
        shots=2,
        schedule=Schedule(epochs=3),
    )
    cache = FeatureCache(tmp_path / "cache")

    def run(folder="run", **options):
        return train(config, tmp_path / folder, task=shapes, backbone=tiny, cache=cache, **options)

    return run


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def python(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def test_two_runs_in_one_folder_do_not_mix(go, tmp_path):
    refused = []

    def meanwhile():
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on {socket.gethostname()}; wait"):
                go(**options)
            refused.append(options)

    go("alone")
    go(after_epoch=meanwhile)
    assert len(refused) == 6
    assert content(tmp_path / "run") == content(tmp_path / "alone"), "not a line of another run, and no lock left"


def test_a_run_that_another_process_has_finished_meanwhile_is_read_back(go, tmp_path, monkeypatch):
    go("alone")
    build = CoOpConfig.build

    def slow(self, setting):
        monkeypatch.undo()
        go()
        return build(self, setting)

    monkeypatch.setattr(CoOpConfig, "build", slow)
    read = go(resume=True, after_epoch=lambda: pytest.fail("trained again"))
    assert read == Result.from_json(json.loads((tmp_path / "run" / "result.json").read_text()))
    assert content(tmp_path / "run") == content(tmp_path / "alone")


def test_a_lock_ends_with_its_process(tmp_path):
    with python(HOLDER, tmp_path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "), Lock(tmp_path):
            pass
        holder.kill()
    assert (tmp_path / lock.NAME).exists(), "left behind, it locks nothing"
    with Lock(tmp_path):
        assert (tmp_path / lock.NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_last_holder_removes_is_asked_for_again(tmp_path, monkeypatch):
    """The file is unlinked between another's opening and locking it: that lock would be worth nothing."""
    flock = fcntl.flock

    def late(file, operation):
        if not removed:
            removed.append((tmp_path / lock.NAME).unlink())
        flock(file, operation)

    removed = []
    monkeypatch.setattr(fcntl, "flock", late)
    with Lock(tmp_path), pytest.raises(UserError, match="in use by"), Lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_said(go, monkeypatch, capsys):
    def refuse(_file, _operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert go().seed == 1
    assert "cannot be locked (No locks available): let no other command write to it" in capsys.readouterr().err


def test_a_grid_in_use_is_one_line(tmp_path, capsys):
    with Lock(tmp_path):
        assert main(["demo", "--out", str(tmp_path), "--epochs", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path} is in use by process {os.getpid()} on ")


class KilledError(Exception):
    pass


@pytest.fixture
def killed_at(monkeypatch):
    """Raise when a file of that name is to be renamed, with its half left behind as after SIGKILL."""
    replace = atomic.Path.replace

    def install(name):
        def cut(self, target):
            if target.name == name:
                self.with_name(f"{name}.half{atomic.PARTIAL}").write_bytes(self.read_bytes()[:5])
                raise KilledError
            return replace(self, target)

        monkeypatch.setattr(atomic.Path, "replace", cut)

    return install


@pytest.mark.parametrize(
    "name", ["config.json", "split.csv", "checkpoint.safetensors", "prompts.safetensors", "skipped.csv", "result.json"]
)
def test_a_run_cut_off_at_any_file_resumes_to_the_same_bits(go, tmp_path, killed_at, monkeypatch, name):
    whole = go("alone")
    killed_at(name)
    with pytest.raises(KilledError):
        go()
    assert not (tmp_path / "run" / name).exists()
    monkeypatch.undo()
    assert go(resume=True) == whole
    assert content(tmp_path / "run") == content(tmp_path / "alone")


def test_a_finished_run_whose_checkpoint_was_left_is_tidied(go, tmp_path):
    whole = go("alone")
    checkpoint, kept = tmp_path / "run" / "checkpoint.safetensors", tmp_path / "kept"
    go(after_epoch=lambda: shutil.copy(checkpoint, kept))
    kept.rename(checkpoint)
    assert go(resume=True) == whole
    assert content(tmp_path / "run") == content(tmp_path / "alone")


def test_an_overwriting_that_is_cut_off_can_be_repeated(go, killed_at, monkeypatch):
    whole = go()
    killed_at("config.json")
    with pytest.raises(KilledError):
        go(overwrite=True)
    monkeypatch.undo()
    with pytest.raises(UserError, match="already holds an unfinished run"):
        go()
    assert go(overwrite=True) == whole


def test_lost_lines_of_metrics_are_an_error(go, tmp_path):
    def stop():
        raise KilledError

    with pytest.raises(KilledError):
        go(after_epoch=stop)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="metrics.jsonl: 0 lines for 1 epochs; use --overwrite"):
        go(resume=True)


def test_files_have_the_modes_that_the_umask_asks_for(go, tmp_path):
    before = os.umask(0o027)
    try:
        go()
    finally:
        os.umask(before)
    files = [path for folder in ("run", "cache") for path in (tmp_path / folder).iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}


def test_writers_of_one_cache_entry_do_not_mix(tiny, shapes, tmp_path, monkeypatch):
    """A second process writes the same entry while the first is at it."""
    refs = [record.ref for record in shapes.records[:3]]
    cache = FeatureCache(tmp_path)
    replace = atomic.Path.replace

    def slow(self, target):
        monkeypatch.undo()
        assert len(list(tmp_path.iterdir())) == 1, "not whole yet, so not there yet"
        second.append(FeatureCache(tmp_path).images(tiny, shapes.images, refs).features)
        return replace(self, target)

    second = []
    monkeypatch.setattr(atomic.Path, "replace", slow)
    first = cache.images(tiny, shapes.images, refs).features
    assert second[0].equal(first)
    (entry,) = tmp_path.iterdir()
    assert load_file(entry)["features"].shape == first.shape[1:]
    assert FeatureCache(tmp_path).images(tiny, shapes.images, refs).features.equal(first)


def test_names_that_are_no_utf8_are_written_as_they_are(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    atomic.write_csv(tmp_path / "a.csv", ("path",), [(name,)])
    assert (tmp_path / "a.csv").read_bytes() == b"path\r\ncaf\xe9.png\r\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("arguments", "does", "line"),
    [
        (("train", "zero-shot"), "kmat.runs.run.train", "interrupted; the same command with --resume goes on"),
        (("demo", "--workers", "1"), "kmat.grids.grid.run_grid", "interrupted; the same command goes on"),
        (("tasks",), "kmat.commands.data.plain_table", "interrupted"),
    ],
)
def test_signals_end_in_one_line(monkeypatch, tmp_path, capsys, arguments, does, line, number, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(does, lambda *_, **__: signal.raise_signal(number))
    handler = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # by shells, of what runs in the background
    try:
        assert main(list(arguments)) == code
    finally:
        signal.signal(signal.SIGINT, ignored)
    *announced, said = capsys.readouterr().err.splitlines()
    assert len(announced) == (arguments[0] == "demo")
    assert said.startswith(line)
    assert (said == line) == (line == "interrupted")
    assert signal.getsignal(signal.SIGTERM) == handler


PARENT = """
    import multiprocessing, os, signal, time
    from kmat.signals import deaf_to_ctrl_c, end_with_parent

    def work(connection):
        end_with_parent()
        os.kill(os.getpid(), signal.SIGINT)
        connection.send("still here")
        time.sleep(60)

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with deaf_to_ctrl_c():
            context.Process(target=work, args=(theirs,)).start()
        theirs.close()
        print(ours.recv(), flush=True)
        time.sleep(60)
"""


def test_a_worker_is_deaf_to_ctrl_c_and_ends_with_its_parent(tmp_path):
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "still here\n"
        parent.kill()
        parent.communicate(timeout=30)  # the pipe closes once the worker, which inherited it, is gone

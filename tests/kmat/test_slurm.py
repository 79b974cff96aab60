"""A stand-in for SLURM: sbatch starts the job's script on this machine, sacct tells what became of it."""

import os
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from kmat.errors import UserError
from kmat.grids.config import Resources
from kmat.grids.pool import Job, open_pool, run_all
from kmat.methods import CoOpConfig
from kmat.runs.config import RunConfig
from kmat.runs.schedule import Schedule

pytest.importorskip("submitit")

# Job 1 is killed before it begins; the others are run.
SBATCH = """
cluster = Path(os.environ["CLUSTER"])
if "partition=closed" in Path(sys.argv[1]).read_text():
    sys.exit("sbatch: error: Batch job submission failed: Invalid partition name specified")
number = len(list(cluster.glob("job-*"))) + 1
script = Path(sys.argv[1]).read_text()
(cluster / f"job-{number}").write_text(script)
if number > 1:
    srun = shlex.split(script.splitlines()[-1])
    command = srun[srun.index(sys.executable):]
    command[-1] = command[-1].replace("%j", str(number))
    where = {**os.environ, "SLURM_JOB_ID": str(number), "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1"}
    where |= {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here"}
    where["SUBMITIT_EXECUTOR"] = "slurm"
    with (cluster / f"log-{number}").open("w") as log:
        process = subprocess.Popen(command, env=where, stdout=log, stderr=log, start_new_session=True)
print(f"Submitted batch job {number}")
"""
SACCT = """
print("JobID|State|NodeList")
for job in Path(os.environ["CLUSTER"]).glob("job-*"):
    number = job.name.removeprefix("job-")
    log = job.with_name(f"log-{number}")
    failed = "FAILED" if log.exists() and "Traceback" in log.read_text() else "RUNNING"
    print(f"{number}|{'OUT_OF_MEMORY' if number == '1' else failed}|here")
"""
SCANCEL = """
(Path(os.environ["CLUSTER"]) / "cancelled").open("a").write(sys.argv[1] + " ")
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Put the commands of a cluster on the path; they leave what they were given in this folder."""
    commands, folder = tmp_path / "bin", tmp_path / "cluster"
    commands.mkdir()
    folder.mkdir()
    head = f"#!{sys.executable}\nimport os, shlex, subprocess, sys\nfrom pathlib import Path\n"
    for name, body in {"sbatch": SBATCH, "sacct": SACCT, "scancel": SCANCEL, "srun": ""}.items():
        (commands / name).write_text(head + textwrap.dedent(body))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("CLUSTER", str(folder))
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)  # for file systems that are slow to tell
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def config(shapes_config, tiny_dir):
    schedule = Schedule(epochs=2)
    return RunConfig(CoOpConfig(), shapes_config, f"local-dir:{tiny_dir}", shots=4, schedule=schedule)


def test_slurm_gives_the_same_numbers_and_a_killed_job_is_sent_again(cluster, config, capfd):
    jobs = [Job(config, Path("one")), Job(replace(config, backbone="nonsense"), Path("two"))]
    resources = Resources(workers=2, cache=Path("cache"), device="cpu", slurm=("partition=night", "--mem-per-cpu=2G"))
    with open_pool(resources, Path("logs")) as pool:
        results = run_all(pool, jobs)
    err = capfd.readouterr().err
    assert "one: its worker died (SLURM job 1, OUT_OF_MEMORY)" in err
    assert isinstance(results[Path("two")], UserError)
    assert "expected biomedclip" in str(results[Path("two")])
    with open_pool(Resources(workers=1, cache=Path("cache"), device="cpu")) as pool:
        alone = run_all(pool, [Job(config, Path("alone"))])
    assert results[Path("one")].scores == alone[Path("alone")].scores
    script = (cluster / "job-3").read_text()
    for option in ("partition=night", "mem-per-cpu=2G", "job-name=kmat", "time=240", "cpus-per-task=1"):
        assert f"#SBATCH --{option}\n" in script
    assert not (cluster / "cancelled").exists()


@pytest.mark.usefixtures("cluster")
def test_what_sbatch_refuses_is_one_line(config):
    resources = Resources(slurm=("partition=closed",))
    with open_pool(resources, Path("logs")) as pool, pytest.raises(UserError, match="Invalid partition name"):
        run_all(pool, [Job(config, Path("one"))])


def test_jobs_that_are_not_done_are_cancelled(cluster, config):
    with open_pool(Resources(workers=1, slurm=()), Path("logs")) as pool:
        pool.start(Job(config, Path("one")))
        assert not pool.idle
    assert (cluster / "cancelled").read_text() == "1 "


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("option", "message"),
    [("speed=9", "Unavailable parameter"), ("partition", "'partition': expected NAME=VALUE")],
)
def test_wrong_options_are_one_line(option, message):
    with pytest.raises(UserError, match=message), open_pool(Resources(slurm=(option,))):
        pass


def test_without_a_cluster_or_submitit_it_is_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="slurm cluster"), open_pool(Resources(slurm=())):
        pass
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="pip install 'fgwot\\[slurm\\]'"), open_pool(Resources(slurm=())):
        pass
    with pytest.raises(UserError, match="--ray and --slurm exclude each other"):
        Resources(ray="local", slurm=())

"""Who trains is the recipe's number of processes; variables that another program left over mean nothing, or are named."""

import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import forked
import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from messages import tells

from lightning_diff.foundation import first_process, parent
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import launch, meeting
from lightning_diff.runs.launch import OwnEnvironment, _environment

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LEFT_OVER = {"RANK": "5", "LOCAL_RANK": "1", "NODE_RANK": "3", "WORLD_SIZE": "7", "MASTER_ADDR": "nowhere.invalid"}
TASKS = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture
def variables(monkeypatch):
    for name in [*NAMES, *(name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_")))]:
        monkeypatch.delenv(name, raising=False)

    def set_all(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_all


def refusal(here: int, nodes: int = 1) -> str:
    with pytest.raises(UserError) as refused:
        _environment(here, nodes)
    return str(refused.value)


@pytest.mark.parametrize("name", [*NAMES, "SLURM_PROCID", "JSM_NAMESPACE_RANK"])
def test_one_process_is_the_first_whatever_is_left_over(train, variables, name):
    variables(**{name: 1})
    folder = train("run", "trainer.max_steps=1", "trainer.strategy=ddp" if name == "LOCAL_RANK" else "seed=3")
    assert all(
        (folder / file).exists() for file in ("metrics.csv", "recipe.yaml", "model.safetensors", "finished.json")
    )
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_the_trainings_of_a_jobs_tasks_may_each_be_of_one_process(train, variables):
    variables(**TASKS, SLURM_NTASKS=2)
    variables(SLURM_PROCID=1, SLURM_LOCALID=1)
    assert (train("run", "trainer.max_steps=1") / "metrics.csv").exists()


def test_tasks_and_devices_that_differ_are_refused_before_the_folder_is_touched(train, variables):
    variables(**TASKS, SLURM_NTASKS=1)
    with pytest.raises(UserError) as refused:
        train("run", "trainer.devices=2")
    assert tells(
        str(refused.value), "...run.yaml: trainer: trainer.devices=2 ... --ntasks-per-node=2 ... unset SLURM_NTASKS"
    )
    assert not Path("runs").exists()


def test_tasks_that_fit_are_slurms_with_and_without_a_number_for_each_node(variables):
    variables(**TASKS, SLURM_NTASKS=4, SLURM_NNODES=2)
    environment = _environment(2, 2)
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    assert tells(refusal(4), "trainer: trainer.devices=4 ... --nodes=1")
    variables(SLURM_PROCID=4)
    assert tells(refusal(2, 2), "SLURM_PROCID=4 ...")


def test_a_shell_inside_a_job_starts_its_own_processes(variables):
    variables(**TASKS | {"SLURM_JOB_NAME": "bash"}, SLURM_NTASKS=1)
    assert isinstance(_environment(2, 1), OwnEnvironment)


def test_torchruns_number_of_processes_is_the_recipes(variables):
    variables(TORCHELASTIC_RUN_ID="none", RANK=1, LOCAL_RANK=1, WORLD_SIZE=2)
    assert isinstance(_environment(2, 1), TorchElasticEnvironment)
    assert tells(refusal(1), "trainer: trainer.devices=1 ... 1 ... torchrun ... 2 ... TORCHELASTIC_RUN_ID")
    variables(WORLD_SIZE=1)
    assert isinstance(_environment(1, 1), OwnEnvironment)
    variables(WORLD_SIZE="two")
    assert tells(refusal(1), "WORLD_SIZE=two ...")


def test_processes_started_by_hand_give_all_that_is_needed(variables):
    variables(LOCAL_RANK=1)
    assert not _environment(2, 1).creates_processes_externally
    variables(MASTER_PORT=29500, WORLD_SIZE=3)
    assert not _environment(2, 1).creates_processes_externally
    variables(WORLD_SIZE=2)
    environment = _environment(2, 1)
    assert environment.creates_processes_externally
    assert (environment.local_rank(), environment.node_rank(), environment.main_port) == (1, 0, 29500)


def test_several_machines_without_a_launcher_have_to_be_told_where_they_meet(variables):
    assert tells(refusal(1, 2), "trainer.num_nodes=2: ... MASTER_ADDR, MASTER_PORT and NODE_RANK ...")
    variables(MASTER_PORT=29500, NODE_RANK=2)
    with pytest.raises(UserError, match="NODE_RANK=2"):
        _environment(1, 2).node_rank()


def test_a_taken_port_is_another_one_where_nobody_else_has_to_know_it(variables, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables(MASTER_PORT=port)
        assert _environment(2, 1).main_port != port
        assert tells(capsys.readouterr().out, f"MASTER_PORT={port} ...")
        with pytest.raises(UserError, match=f"MASTER_PORT={port} is taken"):
            _ = _environment(1, 2).main_port
    assert _environment(2, 1).main_port == port


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_processes_whose_training_would_be_lost_are_refused(train, strategy):
    with pytest.raises(UserError) as refused:
        train("run", f"trainer.strategy={strategy}", "trainer.devices=2")
    assert tells(str(refused.value), "...run.yaml: trainer.strategy: ... ddp ...")
    assert not Path("runs").exists()


def test_the_first_process_is_the_trainers_word(monkeypatch, variables):
    variables(RANK=1)
    assert first_process.is_first_process()
    monkeypatch.setattr(first_process, "_rank", 1)
    assert not first_process.is_first_process()


def test_a_process_that_waits_for_others_says_so_and_why(monkeypatch, variables, capsys):
    variables(LOCAL_RANK=0, MASTER_PORT=29500, WORLD_SIZE=2)
    monkeypatch.setattr(meeting, "WORD_SECONDS", 0.0)
    monkeypatch.setattr(meeting, "LIMIT_SECONDS", 0.6)
    monkeypatch.setattr(launch.os, "_exit", lambda code: sys.exit(code))
    with pytest.raises(SystemExit) as ended:
        meeting.wait(threading.Event(), 2, launch._advice(_environment(2, 1)))
    assert ended.value.code == 2
    first, last = capsys.readouterr().err.splitlines()
    assert tells(first, "waiting ... 2 ... 29500 ... unset LOCAL_RANK")
    assert tells(last, "error: ... 2 ...")


def test_a_process_whose_parent_died_before_it_looked_does_not_train(monkeypatch):
    monkeypatch.setattr(parent, "_lives", lambda process: False)
    monkeypatch.setattr(parent.os, "_exit", lambda code: sys.exit(code))
    monkeypatch.setenv(parent.MARK, "1234567")
    with pytest.raises(SystemExit):
        parent.is_started()
    assert parent.MARK not in os.environ


def children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def lives(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait(condition, seconds: float = 90.0):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.mark.whole
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at Linux's table of processes")
@pytest.mark.parametrize("killed", ["first", "other"])
def test_two_processes_meet_among_what_is_left_over_and_none_outlives_the_other(tmp_path, train, killed):
    train("recipe", "trainer.max_steps=1")
    words = ("train", "recipe.yaml", "name=two", "trainer.devices=2", "trainer.max_steps=1_000_000")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = forked.start(*words, cwd=tmp_path, env=LEFT_OVER | {"MASTER_PORT": str(taken.getsockname()[1])})
        try:
            assert wait((tmp_path / "runs" / "two" / "metrics.csv").exists)
            (other,) = children(first.pid)
            os.kill(first.pid if killed == "first" else other, signal.SIGKILL)
            _, errors = first.communicate(timeout=60)
            assert wait(lambda: not lives(other), 30)
        finally:
            first.kill()
    if killed == "other":
        assert first.returncode in (1, 2)
        assert re.search("error: .*process", errors), errors

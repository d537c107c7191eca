"""Two machines, as torchrun and SLURM start them, train what one process trains."""

import signal
import socket
import time
from pathlib import Path

import forked
import pytest
import torch

NODES = ["trainer.num_nodes=2", "trainer.devices=1", "trainer.accumulate_grad_batches=2"]


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def torchrun(rank: int, port: str) -> tuple[str, list[str], dict[str, str]]:
    """Its agents, each of which starts a process."""
    agent = f"--nnodes 2 --node-rank {rank} --nproc-per-node 1 --master-addr 127.0.0.1"
    return "torch.distributed.run", [*agent.split(), "--master-port", port, "-m", "lightning_diff"], {}


def slurm(rank: int, port: str) -> tuple[str, list[str], dict[str, str]]:
    job = {"JOB_ID": "17", "JOB_NAME": "train", "NTASKS": "2", "NTASKS_PER_NODE": "1", "NNODES": "2", "LOCALID": "0"}
    job |= {"PROCID": str(rank), "NODEID": str(rank), "NODELIST": "127.0.0.1"}
    facts = {f"SLURM_{name}": value for name, value in job.items()}
    return "lightning_diff", [], facts | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def start(launcher, home: Path, *words: str) -> list[forked.Process]:
    free = port()
    nodes = []
    for rank in range(2):
        program, first, environment = launcher(rank, free)
        words_of_node = (*first, "train", "two.yaml", *words, *NODES)
        nodes.append(forked.start(*words_of_node, program=program, cwd=home, env=environment))
    return nodes


@pytest.mark.whole
@pytest.mark.parametrize("launcher", [torchrun, slurm])
def test_two_machines_train_what_one_process_trains(train, state, tmp_path, launcher):
    train("two", "name=one")
    nodes = start(launcher, tmp_path)
    outputs = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert outputs[0][0].count("runs/two: done") == 1
    assert "done" not in outputs[1][0]
    one, two = state(Path("runs/one")), state(Path("runs/two"))
    assert one["images_seen"] == two["images_seen"]
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-5, atol=1e-6)


def test_a_job_whose_machines_are_taken_back_saves_and_asks_for_another_try(train, tmp_path):
    train("two", "name=one")
    nodes = start(slurm, tmp_path, "trainer.max_steps=1_000_000")
    table = tmp_path / "runs" / "two" / "metrics.csv"
    end = time.monotonic() + 60
    while not table.exists() and time.monotonic() < end:
        time.sleep(0.2)
    for node in nodes:
        node.send_signal(signal.SIGUSR1)
    errors = [node.communicate(timeout=60)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [75, 75], errors
    assert "stopped by SIGUSR1 after saving runs/two/checkpoints/step_" in errors[0]
    assert not (tmp_path / "runs" / ".two.lock").exists()

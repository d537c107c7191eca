"""The branches that a CPU never takes, through a torch.cuda that writes down what it is asked."""

import pytest
import torch
from pretend_device import NAME, pretend

from lightning_diff.data import Toy, loader
from lightning_diff.foundation import devices
from lightning_diff.precision.copies import rest_dtype
from lightning_diff.precision.kernels import choose
from lightning_diff.runs.folder import write_record
from lightning_diff.runs.side_by_side import _gpus

CUDA, CPU = torch.device("cuda", 1), torch.device("cpu")


class Recorded:
    """Stands for torch.cuda: every call is noted as (name, arguments)."""

    def __init__(self, **answers):
        self.calls, self.answers = [], answers

    def __getattr__(self, name):
        def call(*args):
            self.calls.append((name, *args))
            return self.answers.get(name)

        return call


@pytest.fixture
def cuda(monkeypatch):
    """A machine with two GPUs of compute capability 9.0."""
    fake = Recorded(
        is_available=True,
        device_count=2,
        get_device_name="Pretended 9000",
        get_device_capability=(9, 0),
        max_memory_allocated=2**30,
        get_rng_state="state",
    )
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return fake


def test_a_gpu_is_taken_if_there_is_one(cuda, monkeypatch):
    assert devices.default() == "cuda"
    assert devices.description() == {"version": "13.0", "device": "Pretended 9000"}
    assert devices.count() == 2
    cuda.answers["is_available"] = False
    assert devices.default() == "cpu"
    assert devices.description() is None


def test_kernels_go_by_compute_capability(cuda):
    assert devices.capability(CUDA) == (9, 0)
    assert cuda.calls == [("get_device_capability", CUDA)]
    assert choose("fp8", "auto", CUDA)[1] == "torch._scaled_mm"
    assert choose("int8", "auto", CUDA)[1] == "torch._int_mm"
    assert choose("nvfp4", "auto", CUDA)[1] == "emulated"  # which Hopper lacks
    cuda.answers["get_device_capability"] = (7, 5)
    assert choose("fp8", "auto", CUDA)[1] == "emulated"
    cuda.calls.clear()
    assert devices.capability(CPU) is None
    assert not cuda.calls
    assert (rest_dtype("fp8", "auto", CUDA), rest_dtype("fp8", "auto", CPU)) == (torch.bfloat16, None)


def test_kernels_of_another_makers_gpu_are_not_asked_for(cuda, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)  # as ROCm has it, whose device is called cuda, too
    assert devices.capability(CUDA) is None
    assert choose("fp8", "auto", CUDA)[1] == "emulated"


def test_memory_and_random_numbers_are_the_devices_own(cuda):
    assert devices.peak_memory(CUDA) == 2**30
    devices.seed(CUDA, 7)
    with devices.same_random_numbers(CUDA) as rewind:
        rewind()
    assert cuda.calls == [
        ("max_memory_allocated", CUDA),
        ("manual_seed", 7),
        ("get_rng_state", CUDA),
        ("set_rng_state", "state", CUDA),
        ("set_rng_state", "state", CUDA),
    ]


def test_the_host_asks_for_nothing(cuda):
    assert devices.peak_memory(CPU) is None
    devices.seed(CPU, 7)
    values = torch.ones(3)
    assert devices.moved(values, CPU) is values
    assert devices.pinned({"x": values}, CPU)["x"] is values
    assert devices.Arriving(values).is_here
    with devices.same_random_numbers(CPU), devices.own_random_numbers(CPU):
        pass
    assert not cuda.calls


def test_runs_side_by_side_share_the_gpus_out(cuda, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _gpus() == ["0", "1"]


def test_a_run_writes_down_its_gpu(cuda, tmp_path):
    write_record(tmp_path, {"name": "run"})
    assert '"device": "Pretended 9000"' in (tmp_path / "versions.json").read_text()


def test_what_goes_to_a_device_is_pinned_and_not_waited_for():
    with pretend() as waits:
        device = torch.device(NAME)
        batch = devices.pinned({"x": torch.ones(3), "generators": [1], "none": torch.ones(0)}, device)
        assert batch["x"].is_pinned()
        assert batch["generators"] == [1]
        assert devices.moved(batch["x"], device).device.type == NAME
        assert devices.moved(torch.ones(3), device).device.type == NAME
        assert not waits.found


def test_what_comes_from_a_device_is_read_when_the_next_work_has_been_launched():
    with pretend() as waits:
        x = torch.ones(3, device=NAME)
        arriving = devices.Arriving(x)
        x.add_(1)
        assert not arriving.is_here
        assert arriving.read().tolist() == [1, 1, 1]
        assert not waits.found


def test_random_numbers_of_a_device_are_given_back():
    with pretend():
        device = torch.device(NAME)
        devices.seed(device, 3)
        with devices.own_random_numbers(device):
            first = torch.rand(4, device=NAME), torch.rand(4)
        with devices.same_random_numbers(device) as rewind:
            again = torch.rand(4, device=NAME), torch.rand(4)
            rewind()
            third = torch.rand(4, device=NAME), torch.rand(4)
        for other in (again, third):
            assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(first, other, strict=True))


def test_a_loader_pins_where_it_is_told_to_and_nowhere_else():
    """Workers' batches in a thread of torch's; those of this process when they are complete."""
    data = Toy(n=64, batch_size=16)
    data.setup()
    data.workers = 2
    assert loader(data, 0, pin=True).pin_memory
    assert not loader(data, 0).pin_memory
    data.workers = 0
    assert not loader(data, 0, pin=True).pin_memory


@pytest.mark.parametrize(("local", "expected"), [("1", "cuda:1"), ("2", "cuda"), ("", "cuda"), ("one", "cuda")])
def test_each_process_has_a_gpu_of_its_own_where_there_are_enough(monkeypatch, local, expected):
    monkeypatch.setattr(devices, "count", lambda: 2)
    monkeypatch.setattr(devices, "default", lambda: "cuda")
    monkeypatch.setenv("LOCAL_RANK", local)
    assert devices.own() == expected

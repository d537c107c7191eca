"""Ten mistakes that a CPU forgives, put in one at a time: a short training on the pretend device finds each of them."""

import numpy as np
import pytest
import torch
from pretend_lightning import CHOSEN, StepMarks, pretend_trainer

from lightning_diff.callbacks import FiniteGuard
from lightning_diff.modules import DiffusionModule
from lightning_diff.nets import MLP
from lightning_diff.noise import LogNormal
from lightning_diff.runs import build

HERE = "tests/test_seeded_faults.py:"
SILENT = (2, 3)


def in_loss(change):
    """A fault between the objective and the weighting: change(module, loss) -> loss."""
    outputs = DiffusionModule._outputs
    return DiffusionModule, "_outputs", lambda self, batch, sigma, loss: outputs(self, batch, sigma, change(self, loss))


def in_callback(look):
    """A fault in a callback, at every step: look(module, outputs)."""
    end = FiniteGuard.on_micro_batch_end

    def on_micro_batch_end(self, trainer, module, outputs):
        look(module, outputs)
        end(self, trainer, module, outputs)

    return FiniteGuard, "on_micro_batch_end", on_micro_batch_end


def in_level(change):
    """A fault in the noise law: change(sigma) -> sigma."""
    icdf = LogNormal.icdf
    return LogNormal, "icdf", lambda self, u: change(icdf(self, u))


TABLE = torch.ones(2)  # as an attribute of a module's that was never registered, and is not moved with the rest


def in_network():
    forward = MLP.forward
    return MLP, "forward", lambda self, x, *rest, **named: forward(self, x * TABLE.to(x.dtype), *rest, **named)


MIXED = {
    "an index of the host's": lambda: in_loss(lambda self, loss: loss.index_select(0, torch.arange(len(loss)))),
    "a generator of the host's": lambda: in_loss(
        lambda self, loss: loss + 0 * torch.randn(loss.shape, device=loss.device, generator=torch.Generator())
    ),
    "noise of the host's": lambda: in_level(lambda sigma: sigma * (1 + 0 * torch.randn(len(sigma), dtype=sigma.dtype))),
    "a round trip by numpy": lambda: in_level(lambda sigma: torch.from_numpy(np.log(sigma.numpy())).exp().to(sigma)),
    "a table that is no buffer": in_network,
}
WAITING = {
    "a number read in the loss": ("read", lambda: in_loss(lambda self, loss: loss / max(loss.mean().item(), 1e-9))),
    "a condition on a tensor": ("read", lambda: in_loss(lambda self, loss: loss if loss.sum() > 0 else -loss)),
    "rows by a mask": (
        "size",
        lambda: in_callback(lambda module, outputs: outputs["log_snr"][outputs["per_sample_loss"] > 0].mean()),
    ),
    "a copy at every step": ("copy out", lambda: in_callback(lambda module, outputs: outputs["log_snr"].to("cpu"))),
    "a constant made on the host": (
        "copy in",
        lambda: in_loss(lambda self, loss: loss * torch.tensor([1.0], device=loss.device)),
    ),
}


@pytest.fixture
def run(train, monkeypatch):
    """run(fault): three steps with it; returns the waits, by step."""
    in_order = build.in_order

    def run(fault=None):
        if fault is not None:
            monkeypatch.setattr(*fault())
        with pretend_trainer() as waits:
            monkeypatch.setattr(build, "in_order", lambda *parts: [StepMarks(waits), *in_order(*parts)])
            train("run", *CHOSEN, "trainer.log_every_n_steps=4", "trainer.max_steps=4")
        return waits

    return run


def test_without_a_fault_nothing_is_found(run):
    waits = run()
    assert not [place for step in SILENT for place in waits.places(step)]


@pytest.mark.whole
@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_devices_is_an_error(run, name):
    with pytest.raises((RuntimeError, TypeError), match=r"same device|device type for generator|numpy"):
        run(MIXED[name])


@pytest.mark.whole
@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_named_by_its_line(run, name):
    kind, fault = WAITING[name]
    waits = run(fault)
    for step in SILENT:
        assert [place.startswith(f"{kind}: {HERE}") for place in waits.places(step)] == [True], waits.places(step)


def test_there_are_ten():
    assert len(MIXED) + len(WAITING) == 10

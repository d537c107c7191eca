"""A loss that is not finite is named by step, noise level and position; nothing of it is saved, or its step is skipped."""

from collections.abc import Sequence
from pathlib import Path

import forked
import pytest
import torch
from lightning.pytorch import Callback
from messages import tells
from torch import nn

from lightning_diff.artifacts import checkpoints, events
from lightning_diff.data import Stream, Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.noise import LogNormal, sigma_to_log_snr


class Faulty(nn.Module):
    """A network whose output is NaN for these rows of the n-th batch it sees."""

    def __init__(self, at: int, rows: Sequence[int]):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.calls, self.at, self.rows = 0, at, rows

    def forward(self, x, c_noise, label=None):
        self.calls += 1
        output = x * self.weight
        if self.calls == self.at:
            output[self.rows] = torch.nan
        return output


class Steep(nn.Module):
    """A network with a finite output and an infinite gradient."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x, c_noise, label=None):
        return x * self.weight.sqrt()


class _Spike(torch.autograd.Function):
    """The number as it is, with a gradient of infinity."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, torch.inf)


class Jagged(nn.Module):
    """A network with a finite output, and an infinite gradient for the n-th batch it sees."""

    def __init__(self, at: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.calls, self.at = 0, at

    def forward(self, x, c_noise, label=None):
        self.calls += 1
        return x * (_Spike.apply(self.weight) if self.calls == self.at else self.weight)


class Watch(Callback):
    """The weights when the run ended with an error."""

    def on_exception(self, trainer, module, exception):
        Watch.weight = module.denoiser.net.weight.detach().clone()


SAVE = "{_target_: lightning_diff.callbacks.Checkpoint, every_images: 16, keep: 100}"
SKIP = "{_target_: lightning_diff.callbacks.FiniteGuard, policy: skip}"


def faulty(at: int, rows: Sequence[int]) -> str:
    return f"model.net={{_target_: test_finite_guard.Faulty, at: {at}, rows: {list(rows)}}}"


def is_finite(value) -> bool:
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, torch.Tensor) or bool(value.isfinite().all())


def loaded(folder: Path) -> dict[int, dict]:
    paths = sorted((folder / "checkpoints").glob(checkpoints.PATTERN))
    return {checkpoints.read(path)["global_step"]: torch.load(path, weights_only=True) for path in paths}


@pytest.mark.parametrize(
    ("accumulation", "call", "positions"), [(1, 3, [34, 37]), (2, 5, [32 + 2 * 2, 32 + 2 * 5]), (2, 6, [37, 43])]
)
def test_the_message_names_step_levels_and_positions_and_nothing_of_it_is_saved(train, accumulation, call, positions):
    with pytest.raises(UserError) as error:
        train("bad", faulty(call, [2, 5]), f"callbacks=[{SAVE}]", f"trainer.accumulate_grad_batches={accumulation}")
    data = Toy(batch_size=16, n=256)
    sigma = LogNormal().icdf(Stream(data, seed=3).__getitems__(positions)["u"])
    levels = ", ".join(f"{level:.2f}" for level in sigma_to_log_snr(sigma, data.sigma_data).tolist())
    facts = f"step 3: 2 losses ... not finite ... log-SNR {levels} ... positions {positions[0]}, {positions[1]}"
    assert tells(str(error.value), facts)
    saved = loaded(Path("runs/bad"))
    assert list(saved) == [1, 2]
    assert all(map(is_finite, saved.values()))


def test_a_finite_loss_with_a_gradient_that_is_not_ends_the_run_before_the_weights_change(train):
    watch = "{_target_: test_finite_guard.Watch}"
    with pytest.raises(UserError, match=r"step 1: .*gradient.*log-SNR.*positions"):
        train("steep", "model.net={_target_: test_finite_guard.Steep}", f"callbacks=[{SAVE}, {watch}]")
    assert loaded(Path("runs/steep")) == {}
    assert torch.equal(Watch.weight, torch.zeros(2))


@pytest.mark.parametrize("optimizer", ["torch.optim.Adam", "torch.optim.SGD"])
@pytest.mark.parametrize("options", ["", ", fused: true"])
def test_skip_holds_back_a_step_whose_gradient_is_not_finite(train, capsys, optimizer, options):
    optimiser = f"model.optimizer={{_target_: {optimizer}, _partial_: true, lr: 0.1{options}}}"
    folder = train(
        "held", optimiser, "model.net={_target_: test_finite_guard.Jagged, at: 3}", f"callbacks=[{SAVE}, {SKIP}]"
    )
    assert tells(capsys.readouterr().out, "... step 3: ... gradient ... log-SNR ... skipped (1")
    (event,) = events.read(folder)
    assert event.images == 3 * 16
    assert tells(event.text, "step 3: ... gradient ... skipped")
    before, after, later = (
        {**saved["state_dict"], **saved["optimizer_states"][0]["state"].get(0, {})}
        for saved in map(loaded(folder).get, (2, 3, 4))
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(after["denoiser.net.weight"], later["denoiser.net.weight"])
    assert loaded(folder)[8]["callbacks"]["FiniteGuard"] == {"skipped": 1, "overflows": 0}


def test_a_large_gradient_whose_square_overflows_is_finite(train):
    from lightning_diff.callbacks.finite_guard import _are_finite

    large, nan = torch.full((2,), 1e30), torch.tensor([1.0, torch.nan])
    assert _are_finite([large, large.double() * 1e200, torch.zeros(0)], large.device)
    assert not _are_finite([large, nan], large.device)
    assert not _are_finite([-large / 0], large.device)


FP16 = (
    "trainer.plugins={_target_: lightning.pytorch.plugins.MixedPrecision, precision: 16-mixed, device: cpu, "
    "scaler: {_target_: torch.amp.GradScaler, device: cpu, init_scale: %s}}"
)


@pytest.mark.parametrize("clip", ["null", "1.0"])
@pytest.mark.parametrize("options", ["", ", fused: true"])
@pytest.mark.parametrize(("net", "skipped", "overflows"), [("Faulty", 1, 0), ("Jagged", 0, 1)])
def test_fp16_leaves_gradients_to_its_scaler_and_counts_apart(train, options, clip, net, skipped, overflows):
    net = f"model.net={{_target_: test_finite_guard.{net}, at: 3{', rows: [0]' * (net == 'Faulty')}}}"
    adam = f"model.optimizer={{_target_: torch.optim.Adam, _partial_: true, lr: 0.1{options}}}"
    folder = train("half", net, adam, FP16 % 1024.0, f"callbacks=[{SAVE}, {SKIP}]", f"trainer.gradient_clip_val={clip}")
    saved = loaded(folder)
    assert saved[8]["callbacks"]["FiniteGuard"] == {"skipped": skipped, "overflows": overflows}
    assert torch.equal(saved[2]["state_dict"]["denoiser.net.weight"], saved[3]["state_dict"]["denoiser.net.weight"])
    assert int(saved[8]["optimizer_states"][0]["state"][0]["step"]) == 7
    assert saved[8]["MixedPrecision"]["scale"] == 512.0


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_fp16_whose_gradients_are_finite_at_no_scale_ends(train, policy):
    guard = f"{{_target_: lightning_diff.callbacks.FiniteGuard, policy: {policy}}}"
    with pytest.raises(UserError, match=r"step 2: .*fp16.*scale of 0.5"):
        train("none", "model.net={_target_: test_finite_guard.Steep}", FP16 % 2.0, f"callbacks=[{SAVE}, {guard}]")


@pytest.mark.parametrize(("accumulation", "call"), [(1, 3), (2, 5), (2, 6)])
def test_skip_leaves_weights_and_optimiser_as_they_were_and_counts(train, capsys, accumulation, call):
    options = [f"callbacks=[{SAVE}, {SKIP}]", f"trainer.accumulate_grad_batches={accumulation}"]
    saved = loaded(train("skipped", faulty(call, [0]), *options, "trainer.gradient_clip_val=1.0"))
    assert tells(capsys.readouterr().out, "... step 3: 1 losses ... not finite ... skipped (1")
    before, after, later = (
        (saved[step]["state_dict"]["denoiser.net.weight"], saved[step]["optimizer_states"][0]["state"][0])
        for step in (2, 3, 4)
    )
    assert torch.equal(before[0], after[0])
    assert not torch.equal(after[0], later[0])
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert later[1]["step"] == 3  # of four: an optimiser's own clock does not count the skipped one
    assert all(map(is_finite, saved.values()))
    counts = {step: part["callbacks"]["FiniteGuard"]["skipped"] for step, part in saved.items()}
    assert counts == {step: int(step >= 3) for step in range(1, 9)}
    assert saved[8]["images_seen"] == 128


TINY = """
model: {_target_: lightning_diff.DiffusionModule, net: null}
data: {_target_: lightning_diff.data.Toy, n: 256, batch_size: 16}
trainer: {accelerator: cpu, max_steps: 3}
"""
SICK = """
import os
import torch
from torch import nn

class Sick(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, x, c_noise, label=None):
        return x * self.weight * (torch.nan if os.environ.get("LOCAL_RANK") == "1" else 1.0)
"""


def test_processes_stop_together_when_one_of_them_has_a_bad_loss(tmp_path):
    (tmp_path / "sick.py").write_text(SICK)
    (tmp_path / "two.yaml").write_text(TINY)
    words = ["train", "two.yaml", "model.net={_target_: sick.Sick}", "trainer.devices=2"]
    well, sick = (done.stderr for done in forked.run_two(*words, cwd=tmp_path, codes=(2, 2)))
    assert "Traceback" not in well + sick
    assert tells(sick, "... error: step 1: 8 losses ... log-SNR")
    assert tells(well, "... error: step 1: ... another process")

"""A network sharded over processes trains as a whole one does, and either resumes from the other's checkpoints."""

import os
import pickle
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file
from torch import distributed, nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.tensor import DTensor

from lightning_diff import artifacts
from lightning_diff.artifacts import checkpoints
from lightning_diff.artifacts.checkpoints import sharded
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.callbacks import FiniteGuard
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import sharding
from lightning_diff.runs import recipe
from lightning_diff.runs import train as run
from lightning_diff.runs.export import export

pytestmark = pytest.mark.whole

# One feature of the weighting for two processes: one of them has no row of it.
RECIPE = """
name: {name}
seed: 3
model:
  _target_: lightning_diff.DiffusionModule
  net: {{_target_: lightning_diff.nets.MLP, width: 18, depth: 2, dropout: 0.0}}
  weighting: {{_target_: lightning_diff.weighting.LearnedVariance, channels: 1}}
data: {{_target_: lightning_diff.data.Toy, n: 256, conditional: true, batch_size: 16}}
callbacks:
  - _target_: lightning_diff.callbacks.EMA
    profiles: {{ema: {{_target_: lightning_diff.ema.HalfLife, images: 50, ramp_up: null}}}}
    snapshot_every: 64
  - {{_target_: lightning_diff.callbacks.NoiseLevels, bins: 8, windows: 4}}
  - {{_target_: lightning_diff.callbacks.Evaluate, n: 33, steps: 2, batch: 8}}
trainer: {{accelerator: cpu, max_steps: {steps}, log_every_n_steps: 1, gradient_clip_val: 0.5}}
"""
STILL = """
extends: {base}.yaml
name: {name}
model: {{optimizer: {{_target_: torch.optim.SGD, _partial_: true, lr: 0.0}}}}
trainer: {{max_steps: 1}}
"""
STUDENT = """
extends: plain.yaml
name: {name}
model: {{_target_: lightning_diff.ConsistencyModule, teacher: runs/plain, warmup: 64}}
"""
SHARDED = "trainer.strategy=model_parallel"


def write(name: str, steps: int) -> str:
    Path(f"{name}.yaml").write_text(RECIPE.format(name=name, steps=steps))
    return f"{name}.yaml"


def plain(path: str, *overrides: str) -> None:
    run.train(recipe.load(path, overrides), path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of 8 steps: plain; whole (two processes); and ones that go on after 4 steps, FROM_TO."""
    folder = tmp_path_factory.mktemp("sharded")
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    try:
        plain(write("plain", 8))
        plain(write("one", 4))
        for name in ("start", "shared_start"):
            Path(f"{name}.yaml").write_text(STILL.format(base="plain", name=name))
        plain("start.yaml")
        for name in ("student", "shared_student"):
            Path(f"{name}.yaml").write_text(STUDENT.format(name=name))
        plain("student.yaml")
        shared = (write("whole", 8), write("two", 4), "shared_start.yaml", "shared_student.yaml")
        forked.run_two("train", *shared, SHARDED, "trainer.devices=2")
        for name, source in {"one_two": "one", "two_two": "two", "two_one": "two", "two_shard": "two"}.items():
            shutil.copytree(Path("runs") / source, Path("runs") / name)
        plain(write("two_one", 8))
        forked.run_two("train", write("one_two", 8), write("two_two", 8), SHARDED, "trainer.devices=2")
        plain(write("two_shard", 8), SHARDED)
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return folder / "runs"


def values(folder: Path, metric: str) -> torch.Tensor:
    rows = [row for row in read(folder / "metrics.csv") if row["metric"] == metric]
    return torch.tensor([float(row["value"]) for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("name", ["whole", "one_two", "two_two", "two_one", "two_shard"])
def test_sharded_and_plain_runs_and_all_ways_between_them_train_the_same(runs, name):
    """Losses and norms of gradients, the model with its average, the figures drawn from it, and the snapshot on the way."""
    for metric in ("train/loss", "train/grad_norm"):
        expected = values(runs / "plain", metric)
        assert len(expected) == 8
        torch.testing.assert_close(values(runs / name, metric), expected, rtol=2e-6, atol=0)
    assert values(runs / "plain", "train/grad_norm").max() > 0.5  # some were clipped
    for file in ("model.safetensors", "ema/images-000000000064_sigma_rel-0.1.safetensors"):
        weights, same = (load_file(runs / run / file) for run in (name, "plain"))
        for key, value in same.items():
            torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-6)
    figures = {row["metric"]: float(row["value"]) for row in read(runs / "plain" / "metrics.csv") if row["n"]}
    found = {row["metric"]: float(row["value"]) for row in read(runs / name / "metrics.csv") if row["n"]}
    assert figures
    assert found == pytest.approx(figures, rel=1e-3, abs=1e-5)


def test_a_consistency_model_is_distilled_in_shards_as_whole(runs):
    """Its tangents come from a pass of their own there."""
    for metric in ("train/loss", "train/grad_norm"):
        expected = values(runs / "student", metric)
        assert len(expected) == 8
        torch.testing.assert_close(values(runs / "shared_student", metric), expected, rtol=1e-5, atol=0)
    weights, same = (load_file(runs / run / "model.safetensors") for run in ("shared_student", "student"))
    for key, value in same.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-6)


def test_initial_weights_are_those_of_a_plain_run_bit_for_bit(runs):
    """After a step at learning rate 0. The second process built its network without weights."""
    here, there = (
        sharded.filled(state, path) if path.is_dir() else state
        for path in (checkpoints.newest(runs / name / "checkpoints") for name in ("shared_start", "start"))
        for state in [checkpoints.read(path)]
    )
    assert here["state_dict"].keys() == there["state_dict"].keys()
    for name, value in there["state_dict"].items():
        assert torch.equal(here["state_dict"][name], value), name


def test_shards_hold_weights_averages_and_the_optimisers_state_once(runs):
    path = checkpoints.newest(runs / "whole" / "checkpoints")
    state = checkpoints.read(path)
    other = checkpoints.read(checkpoints.newest(runs / "plain" / "checkpoints"))
    (optimizer,), (plain_optimizer,) = state["optimizer_states"], other["optimizer_states"]
    averages, plain_averages = (each["callbacks"]["lightning_diff.EMA"]["averages"]["ema"] for each in (state, other))
    for mine, theirs in (
        (state["state_dict"], other["state_dict"]),
        (averages, plain_averages),
        (optimizer["state"][1], plain_optimizer["state"][1]),
    ):
        assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in theirs.items()}
    in_shards = {name for name, value in state["state_dict"].items() if value.is_meta}
    assert in_shards == {*(f"denoiser.net.{name}" for name in averages), "weighting.weight"}
    # Weights, two moments and three averages of the network, each element once; weights and moments of the one number outside it.
    index = FileSystemReader(path).read_metadata().state_dict_metadata
    elements = sum(chunk.sizes.numel() for entry in index.values() for chunk in entry.chunks)
    assert elements == 6 * sum(value.numel() for value in averages.values()) + 3
    assert len(list(path.glob("*.distcp"))) == 2


@pytest.mark.parametrize("profile", [None, "none"])
def test_one_process_exports_a_sharded_checkpoint(runs, tmp_path, profile):
    export(runs / "whole", tmp_path / "whole", profile=profile)
    export(runs / "plain", tmp_path / "plain", profile=profile)
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "plain"))
    for key, value in theirs.items():
        torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-6)
    assert artifacts.read_record(tmp_path / "whole").ema == (profile or "ema")
    if profile is None:
        assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
            runs / "whole" / "model.safetensors"
        ).read_bytes()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"])
def test_damage_to_any_file_of_a_folder_is_named_and_the_checkpoint_before_it_used(runs, tmp_path, file, damage):
    folder = Path(shutil.copytree(runs / "two_two" / "checkpoints", tmp_path / "checkpoints"))
    damage(folder / "step_00000008.ckpt" / file)
    with pytest.warns(UserWarning, match=rf"step_00000008.ckpt: .*{file}.*checkpoint before"):
        assert checkpoints.newest(folder).name == "step_00000004.ckpt"


def test_folders_are_set_aside_and_pruned_like_files(runs, tmp_path):
    folder = Path(shutil.copytree(runs / "two_two" / "checkpoints", tmp_path / "checkpoints"))
    for _ in range(2):  # the second time beside what the first left
        assert [path.name for path in checkpoints.set_aside_after(folder, 4)] == ["step_00000008.ckpt"]
        shutil.copytree(folder / "step_00000008.ckpt.aside", folder / "step_00000008.ckpt")
        shutil.copy(folder / "step_00000008.json.aside", folder / "step_00000008.json")
    assert [checkpoints.read(path)["global_step"] for path in sorted(folder.glob(checkpoints.PATTERN))] == [4, 8]
    checkpoints.prune(folder, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_00000008.ckpt", "step_00000008.ckpt.aside", "step_00000008.ckpt.aside1",
        "step_00000008.json", "step_00000008.json.aside", "step_00000008.json.aside1",
    ]  # fmt: skip


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A process group of one, and its mesh."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


class Plain(LightningModule):
    """A training module as far as sharding is concerned."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.denoiser = nn.Module()
        self.denoiser.net = net


def test_a_second_configuration_changes_nothing_and_other_strategies_are_refused(alone):
    module = Plain(nn.Sequential(nn.ModuleList([nn.Linear(3, 3)])))
    module._trainer = SimpleNamespace(strategy=ModelParallelStrategy(), precision="32-true")
    with pytest.raises(UserError, match="use model_parallel"):
        sharding.configure(module)
    sharding.shard(module, alone, torch.device("cpu"))
    weights = list(module.parameters())
    assert all(isinstance(weight, DTensor) for weight in weights)
    sharding.configure(module)
    assert all(before is after for before, after in zip(weights, module.parameters(), strict=True))


def test_what_cannot_be_sharded_is_named(alone):
    net = nn.Linear(2, 2)
    net.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match=r"denoiser\.net\.scale .*single number"):
        sharding.shard(Plain(net), alone, torch.device("cpu"))
    with torch.device("meta"):
        net = nn.Linear(2, 2)
        net.table = torch.zeros(3)
    with pytest.raises(UserError, match=r"\.table .*no buffer"):
        sharding.shard(Plain(net), alone, torch.device("cpu"))


def test_clipping_equals_torchs_on_whole_gradients(alone):
    module, same = Plain(nn.Linear(5, 3)), nn.Linear(5, 3)
    same.load_state_dict(module.denoiser.net.state_dict())
    sharding.shard(module, alone, torch.device("cpu"))
    x = torch.randn(4, 5)
    for net in (module.denoiser.net, same):
        net(x).square().sum().backward()
    norm = sharding.clip_grad_norm_(list(module.parameters()), 0.1)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(same.parameters(), 0.1))
    for shards, whole in zip(module.parameters(), same.parameters(), strict=True):
        assert torch.equal(shards.grad.full_tensor(), whole.grad)


@pytest.mark.parametrize(
    ("spoilt", "elsewhere", "said"),
    [(True, False, r"denoiser\.net\.weight "), (False, True, "a weight on another process"), (False, False, None)],
)
def test_all_processes_stop_together_for_a_weight_of_one_of_them(alone, monkeypatch, spoilt, elsewhere, said):
    module = Plain(nn.Linear(3, 2))
    sharding.shard(module, alone, torch.device("cpu"))
    with torch.no_grad():
        if spoilt:
            module.denoiser.net.weight.to_local()[1, 2] = torch.inf
    decisions = []

    def reduce_boolean_decision(decision: bool, all: bool) -> bool:
        decisions.append((decision, all))
        return decision and not elsewhere

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(trainer.strategy, "reduce_boolean_decision", reduce_boolean_decision)
    with pytest.raises(UserError, match=f"step 0: {said}") if said else nullcontext():
        FiniteGuard().on_save_checkpoint(trainer, module, {})
    assert decisions == [(not spoilt, True)]


class Exploit:
    def __reduce__(self):
        return Path.touch, (Path("exploited"),)


@pytest.mark.parametrize("file", [".metadata", "meta.pt"])
def test_a_folder_that_asks_for_code_to_be_run_is_refused_and_nothing_runs(runs, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(checkpoints.newest(runs / "whole" / "checkpoints"), tmp_path / "step_00000008.ckpt"))
    if file == "meta.pt":
        torch.save(Exploit(), folder / file)
    else:
        (folder / file).write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(UserError, match="nothing in it was run"):
        sharded.filled(checkpoints.read(folder), folder)
    assert not Path("exploited").exists()


@pytest.mark.parametrize("failure", [RuntimeError("unexpected pos 704 vs 598"), OSError(28, "No space left on device")])
def test_a_full_disk_under_shards_is_told_in_a_sentence(tmp_path, monkeypatch, failure):
    """torch gathers what failed on any process in an exception that is no `Exception`."""
    from lightning_diff.artifacts.checkpoints import sharded

    def fails(*args, **kwargs):
        raise sharded.dcp.CheckpointException("write", {1: (failure, None)})

    monkeypatch.setattr(sharded.dcp, "save", fails)
    with pytest.raises(UserError, match=rf"step_2: cannot be written: .*{failure.args[-1]}.*disk"):
        sharded.save({}, tmp_path / "step_2", is_first=True)

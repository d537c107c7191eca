"""Laws of the EMA callback: the averages follow the training exactly, and never get in its way."""

import copy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_diff import ema
from lightning_diff.artifacts import ema_snapshots
from lightning_diff.callbacks.ema import EMA, find
from lightning_diff.foundation.errors import UserError

BATCH = 8


class Net(nn.Module):
    """A small network with everything that must not be averaged: a frozen layer, a buffer that counts."""

    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += self.training
        return self.layers(self.frozen(x))


class Denoiser(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net


class Module(LightningModule):
    """A training that is a function of the step alone, with what the callback asks for: denoiser.net, images_seen."""

    batch_size = BATCH

    def __init__(self, width=16):
        super().__init__()
        self.denoiser, self.images_seen = Denoiser(Net(width)), 0
        self.history = []

    def training_step(self, batch, batch_idx):
        x = torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(self.trainer.global_step))
        return (self.denoiser.net(x) - x.sin()).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def optimizer_step(self, *arguments, **named):
        super().optimizer_step(*arguments, **named)
        self.images_seen += self.batch_size
        self.history.append(weights(self))

    def on_save_checkpoint(self, checkpoint):
        checkpoint["images_seen"] = self.images_seen

    def on_load_checkpoint(self, checkpoint):
        self.images_seen = checkpoint["images_seen"]


def weights(module):
    return {name: w.detach().clone() for name, w in module.denoiser.net.named_parameters() if w.requires_grad}


def state(module):
    return copy.deepcopy(module.denoiser.net.state_dict())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def new_module(**options):
    torch.manual_seed(1)
    return Module(**options)


def new_trainer(folder, steps, *callbacks, **options):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **(quiet | options),
    )


class Loader(DataLoader):
    """Only its length matters; Lightning asks a loader that training resumes with for a state."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


LOADER = Loader(range(1_000))


def train(folder, steps, *callbacks, module=None, ckpt_path=None, **options):
    module = new_module() if module is None else module
    trainer = new_trainer(folder, steps, *callbacks, **options)
    trainer.fit(module, LOADER, ckpt_path=ckpt_path, weights_only=True)
    return trainer, module


@pytest.mark.parametrize("accumulation", [1, 3])
def test_each_average_is_updated_once_for_each_optimiser_step(tmp_path, accumulation):
    profiles = {"short": ema.HalfLife(30), "long": ema.HalfLife(100, ramp_up=None), "power": ema.PowerFunction(0.1)}
    callback, module = EMA(profiles), new_module()
    initial = weights(module)
    train(tmp_path, 12, callback, module=module, accumulate_grad_batches=accumulation)
    assert len(module.history) == 12
    for name, profile in profiles.items():
        average = ema.start(initial)
        for step, now in enumerate(module.history, start=1):
            ema.update_(average, now, profile.decay(step * BATCH, BATCH))
        assert equal(callback.averages[name], average)


def test_only_the_trainable_parameters_of_the_network_are_averaged_and_swapped(tmp_path):
    callback = EMA({"ema": ema.HalfLife(40)})
    _, module = train(tmp_path, 5, callback)
    assert set(callback.averages["ema"]) == {f"layers.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    before = state(module)
    with callback.swapped(module):
        inside = state(module)
    changed = {name for name in before if not torch.equal(before[name], inside[name])}
    assert changed == set(callback.averages["ema"])


def test_swapping_puts_the_average_in_and_the_raw_weights_back_bit_for_bit(tmp_path):
    callback = EMA({"a": ema.HalfLife(40), "b": ema.PowerFunction(0.2)})
    _, module = train(tmp_path, 6, callback)
    raw = state(module)
    for profile, expected in [(None, "a"), ("a", "a"), ("b", "b")]:
        with callback.swapped(module, profile) as name:
            assert name == callback.swapped_in == expected
            assert equal(weights(module), callback.averages[expected])
        assert equal(state(module), raw)
        assert callback.swapped_in is None


def test_the_raw_weights_come_back_after_an_exception(tmp_path):
    callback = EMA()
    _, module = train(tmp_path, 3, callback)
    raw = state(module)
    with pytest.raises(KeyboardInterrupt), callback.swapped(module):
        raise KeyboardInterrupt
    assert equal(state(module), raw)
    with callback.swapped(module) as name:  # and it can be used again
        assert name == "ema"


def test_nested_swaps_and_unknown_profiles_are_refused(tmp_path):
    callback = EMA()
    _, module = train(tmp_path, 3, callback)
    raw = state(module)
    with callback.swapped(module), pytest.raises(UserError, match="already"), callback.swapped(module):
        pass
    assert equal(state(module), raw)
    with pytest.raises(UserError, match=r"'emma'.* ema"), callback.swapped(module, "emma"):
        pass


def test_no_checkpoint_is_written_while_swapped(tmp_path):
    callback = EMA()
    trainer, module = train(tmp_path, 3, callback)
    with callback.swapped(module), pytest.raises(UserError, match="no checkpoint while"):
        trainer.save_checkpoint(tmp_path / "swapped.ckpt")
    assert not (tmp_path / "swapped.ckpt").exists()
    trainer.save_checkpoint(tmp_path / "raw.ckpt")
    saved = torch.load(tmp_path / "raw.ckpt", weights_only=True)
    assert equal(saved["state_dict"], module.state_dict())
    assert equal(saved["callbacks"]["lightning_diff.EMA"]["averages"]["ema"], callback.averages["ema"])


def test_before_training_the_raw_weights_stay_and_no_average_is_claimed():
    module = new_module()
    raw = state(module)
    with EMA().swapped(module) as name:
        assert name is None
        assert equal(state(module), raw)


class Watch(Callback):
    """Looks at the averages before the EMA callback has had its turn."""

    def on_train_start(self, trainer, pl_module):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        with find(trainer).swapped(pl_module):
            self.seen.append(weights(pl_module))


def test_a_callback_listed_first_sees_the_average_of_this_step(tmp_path):
    profile = ema.HalfLife(40)
    watch, module = Watch(), new_module()
    average = ema.start(weights(module))
    train(tmp_path, 5, watch, EMA({"ema": profile}), module=module)
    for step, (now, seen) in enumerate(zip(module.history, watch.seen, strict=True), start=1):
        ema.update_(average, now, profile.decay(step * BATCH, BATCH))
        assert equal(seen, average)


def test_watching_the_averages_does_not_change_the_training(tmp_path):
    watched, alone = train(tmp_path, 8, Watch(), EMA())[1], train(tmp_path, 8)[1]
    assert equal(state(watched), state(alone))


@pytest.mark.parametrize("snapshot_every", [None, 20])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, snapshot_every):
    def callback():
        return EMA({"ema": ema.HalfLife(40), "power": ema.PowerFunction(0.1)}, snapshot_every=snapshot_every)

    whole, first, second = callback(), callback(), callback()
    _, module = train(tmp_path / "whole", 12, whole)
    trainer, _ = train(tmp_path / "parts", 7, first)
    trainer.save_checkpoint(tmp_path / "7.ckpt")
    _, resumed = train(tmp_path / "parts", 12, second, module=Module(), ckpt_path=tmp_path / "7.ckpt")
    assert equal(state(module), state(resumed))
    assert second.images == whole.images == 12 * BATCH
    assert all(equal(second.averages[name], whole.averages[name]) for name in whole.profiles)


class Crash(Callback):
    """Raises between an optimiser step and the EMA callback's own turn, once a checkpoint has been written there."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise ZeroDivisionError


def test_a_checkpoint_written_before_the_callbacks_turn_has_the_step_in_its_averages(tmp_path):
    whole, resumed = EMA({"ema": ema.HalfLife(40)}), EMA({"ema": ema.HalfLife(40)})
    train(tmp_path, 9, whole)
    path = tmp_path / "crash.ckpt"
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, 9, Crash(path, 5), EMA({"ema": ema.HalfLife(40)}))
    saved = torch.load(path, weights_only=True)["callbacks"]["lightning_diff.EMA"]
    assert saved["images"] == 5 * BATCH
    train(tmp_path, 4, resumed)  # an EMA of the same profile that stopped just before
    ema.update_(resumed.averages["ema"], whole_history(9)[4], ema.HalfLife(40).decay(5 * BATCH, BATCH))
    assert equal(saved["averages"]["ema"], resumed.averages["ema"])


def whole_history(steps):
    return train(None, steps)[1].history


def test_an_average_that_the_checkpoint_lacks_starts_from_the_raw_weights_with_a_warning(tmp_path):
    trainer, module = train(tmp_path, 4, EMA({"a": ema.HalfLife(40)}))
    trainer.save_checkpoint(tmp_path / "4.ckpt")
    more = EMA({"a": ema.HalfLife(40), "b": ema.HalfLife(80)})
    with pytest.warns(UserWarning, match=r"average b.* 32 images"):
        _, resumed = train(tmp_path, 5, more, module=Module(), ckpt_path=tmp_path / "4.ckpt")
    expected = ema.start(weights(module))
    ema.update_(expected, weights(resumed), ema.HalfLife(80).decay(5 * BATCH, BATCH))
    assert equal(more.averages["b"], expected)


def test_averages_of_another_training_or_network_are_refused(tmp_path):
    callback = EMA()
    train(tmp_path, 3, callback)
    with pytest.raises(UserError, match=r"24 images.* 0"):
        train(tmp_path, 3, callback)
    with pytest.raises(UserError, match="another network"), callback.swapped(new_module(width=4)):
        pass


def test_the_state_is_a_copy_of_what_it_was_loaded_from(tmp_path):
    given, taken = EMA(), EMA()
    train(tmp_path, 3, given)
    before = copy.deepcopy(given.averages["ema"])
    taken.load_state_dict(given.state_dict())
    taken.averages["ema"]["layers.0.weight"].zero_()
    assert equal(given.averages["ema"], before)


def test_averages_first_used_in_inference_mode_can_still_be_trained(tmp_path):
    trained, callback, module = EMA(), EMA(), new_module()
    train(tmp_path, 3, trained)
    module.denoiser.net.layers[0].weight.data = torch.ones(2, 16).mT  # so that the average is laid out anew
    with torch.inference_mode():  # what Trainer.validate runs in
        callback.load_state_dict(trained.state_dict())
        with callback.swapped(module):
            pass
    ema.update_(callback.averages["ema"], weights(module), 0.5)
    assert torch.allclose(
        callback.averages["ema"]["layers.0.weight"], (trained.averages["ema"]["layers.0.weight"] + 1) / 2
    )


def test_autocast_gives_the_averages_output_inside_and_the_raw_one_after(tmp_path):
    callback = EMA({"ema": ema.HalfLife(1_000, ramp_up=None)})
    _, module = train(tmp_path, 4, callback)
    x, net = torch.ones(1, 2), module.denoiser.net.eval()
    with torch.autocast("cpu", torch.bfloat16):  # its cache of converted weights does not notice changes in place
        raw = net(x)
        with callback.swapped(module):
            inside = net(x)
        assert not torch.equal(inside, raw)
        assert torch.equal(net(x), raw)


def test_channels_last_weights_are_averaged_and_stored(tmp_path):
    module = new_module()
    module.denoiser.net.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    module.denoiser.net.register_forward_hook(lambda net, args, out: out + net.conv.weight.mean())
    callback = EMA(snapshot_every=16)
    trainer, _ = train(tmp_path, 4, callback, module=module)
    assert callback.averages["ema"]["conv.weight"].is_contiguous(memory_format=torch.channels_last)
    snapshot = ema_snapshots.load_snapshots(tmp_path / "ema")[-1]
    assert torch.equal(snapshot.load()["conv.weight"], callback.averages["sigma_rel=0.1"]["conv.weight"])
    trainer.save_checkpoint(tmp_path / "4.ckpt")
    loaded = EMA(snapshot_every=16)
    loaded.load_state_dict(torch.load(tmp_path / "4.ckpt", weights_only=True)["callbacks"]["lightning_diff.EMA"])
    with loaded.swapped(module):
        assert equal(weights(module), callback.averages["ema"])


@pytest.mark.parametrize("is_whole", [False, True], ids=["from shards", "from whole averages"])
def test_sharded_weights_are_averaged_and_saved_in_shards_and_resumed(tmp_path, is_whole):
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_module, distribute_tensor

    def shard(name, layer, mesh):
        for key, value in list(layer.named_parameters(recurse=False)):
            sharded = nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)]), value.requires_grad)
            layer.register_parameter(key, sharded)

    init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        module = new_module()
        distribute_module(module.denoiser.net, init_device_mesh("cpu", (1,)), shard)
        plain = {name: w.full_tensor() for name, w in weights(module).items()}
        callback, resumed = EMA({"ema": ema.HalfLife(8)}), EMA({"ema": ema.HalfLife(8)})
        trainer = new_trainer(tmp_path, 1, callback)
        callback.on_train_start(trainer, module)
        with torch.no_grad():
            for weight in module.denoiser.net.parameters():
                weight.mul_(3)
        module.images_seen = 8
        callback.profiles["ema"] = ema.HalfLife(8, ramp_up=None)
        callback.on_train_batch_end(trainer, module)
        state = callback.state_dict()
        saved = {name: value.full_tensor().clone() for name, value in state["averages"]["ema"].items()}
        assert all(isinstance(value, DTensor) for value in state["averages"]["ema"].values())
        assert all(torch.allclose(value, 2 * plain[name]) for name, value in saved.items())
        if is_whole:
            state["averages"]["ema"] = saved
        resumed.load_state_dict(state)
        resumed.on_train_start(trainer, module)
        assert all(isinstance(value, DTensor) for value in resumed.averages["ema"].values())
        with resumed.swapped(module):
            assert all(torch.equal(w.full_tensor(), saved[name]) for name, w in weights(module).items())
        assert all(torch.allclose(w.full_tensor(), 3 * plain[name]) for name, w in weights(module).items())
    finally:
        destroy_process_group()


def test_any_average_of_a_real_training_can_be_made_afterwards(tmp_path):
    """Post-hoc reconstruction equals the directly tracked average within 1 % (EDM2, section 3.2)."""
    targets = {f"{s:g}": ema.PowerFunction(s) for s in (0.06, 0.075, 0.15, 0.2)}
    callback = EMA(targets, snapshot_every=10 * BATCH)
    train(tmp_path, 200, callback)
    for name, profile in targets.items():
        rebuilt = ema_snapshots.reconstruct_from_folder(tmp_path / "ema", profile.sigma_rel)
        assert error(rebuilt, callback.averages[name]) < 0.01


def error(value, truth):
    difference = sum((value[name] - truth[name]).square().sum() for name in truth).sqrt()
    return (difference / sum(w.square().sum() for w in truth.values()).sqrt()).item()


def test_snapshots_are_written_at_each_interval_and_at_the_end(tmp_path):
    train(tmp_path, 7, EMA(snapshot_every=20, snapshot_dtype="float16"))
    snapshots = ema_snapshots.load_snapshots(tmp_path / "ema")
    assert [(s.images, s.sigma_rel) for s in snapshots] == [(n, s) for n in (24, 40, 56) for s in (0.05, 0.10)]
    assert {tensor.dtype for tensor in snapshots[0].load().values()} == {torch.float16}
    assert {path.suffix for path in (tmp_path / "ema").iterdir()} == {".safetensors"}


def test_a_resumed_run_keeps_earlier_snapshots_and_rewrites_later_ones(tmp_path):
    trainer, _ = train(tmp_path, 5, EMA(snapshot_every=16))
    trainer.save_checkpoint(tmp_path / "5.ckpt")

    def rest():
        train(tmp_path, 9, EMA(snapshot_every=16), module=Module(), ckpt_path=tmp_path / "5.ckpt")
        return {snapshot.path.name: snapshot.load() for snapshot in ema_snapshots.load_snapshots(tmp_path / "ema")}

    once, twice = rest(), rest()
    assert len(once) == 12  # two averages at 16, 32, 40 (the end of the first run), 48, 64 and 72 (the end) images
    assert once.keys() == twice.keys()
    assert all(equal(once[name], twice[name]) for name in once)


def test_a_run_that_starts_anew_leaves_no_snapshot_of_the_old_one(tmp_path):
    train(tmp_path, 9, EMA(snapshot_every=16))
    train(tmp_path, 4, EMA(snapshot_every=32))
    assert {s.images for s in ema_snapshots.load_snapshots(tmp_path / "ema")} == {32}


def test_errors_of_the_snapshot_folder_name_it(tmp_path):
    with pytest.raises(UserError, match="no EMA snapshots in"):
        ema_snapshots.reconstruct_from_folder(tmp_path, 0.1)
    average = {"w": torch.ones(2)}
    ema_snapshots.save_snapshot(tmp_path, average, images=100, sigma_rel=0.1)
    with pytest.raises(UserError, match="last snapshot, got 101"):
        ema_snapshots.reconstruct_from_folder(tmp_path, 0.1, images=101)
    with pytest.raises(UserError, match=r"sigma_rel .* in"):
        ema_snapshots.reconstruct_from_folder(tmp_path, 0.5)
    (tmp_path / "images-200.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"images-200\.safetensors"):
        ema_snapshots.load_snapshots(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="write the EMA snapshot"):
        ema_snapshots.save_snapshot(tmp_path / "file", average, images=100, sigma_rel=0.1)


def test_find_gives_the_trainers_ema(tmp_path):
    callback = EMA()
    assert find(new_trainer(tmp_path, 1, callback)) is callback
    assert find(new_trainer(tmp_path, 1)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profiles": {}}, "profiles is empty"),
        ({"snapshot_every": 0}, "snapshot_every .*positive"),
        ({"snapshot_every": 8, "snapshot_sigma_rels": ()}, "snapshot_sigma_rels .*empty"),
        ({"snapshot_every": 8, "profiles": {"sigma_rel=0.1": ema.PowerFunction(0.1)}}, "sigma_rel=0.1.* snapshots"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EMA(**arguments)

"""What Lightning does not promise is still so: a test for each use, tried with the versions that `TRIED` names."""

from importlib.metadata import version

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch.utils.data import DataLoader

from lightning_diff.modules import lightning_internals as internals


class Line(LightningModule):
    """y = w x, with a loss of 1 at first."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.log("mine", 3.0)
        return {"loss": self.weight * batch.mean()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.steps += 1

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.trainer.order.append("module")


class Watch(Callback):
    def __init__(self, look=lambda trainer, outputs, batch_idx: None):
        self.look, self.seen, self.hooks = look, [], []

    def on_train_start(self, trainer, pl_module):
        self.hooks.append("start")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.order.append("callback")
        self.seen.append(self.look(trainer, outputs, batch_idx))

    def on_train_end(self, trainer, pl_module):
        self.hooks.append("end")


def trainer(watch, folder, **options):
    made = Trainer(
        accelerator="cpu", max_epochs=-1, callbacks=[watch], logger=False, enable_progress_bar=False, default_root_dir=folder,
        enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    made.order = []
    return made


def loader():
    return DataLoader(torch.ones(64), batch_size=2)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr("warnings.warn", lambda *args, **kwargs: None)  # of Lightning: few workers, and such


def test_the_installed_version_lies_within_those_tried():
    first, last = ([int(part) for part in each.split(".")] for each in internals.TRIED)
    assert first <= [int(part) for part in version("lightning").split(".")[:3]] <= last


def test_callbacks_end_a_batch_before_the_module(tmp_path):
    run = trainer(Watch(), tmp_path, max_steps=1)
    run.fit(Line(), loader())
    assert run.order == ["callback", "module"]


def test_undeclared_attributes_of_the_trainer(tmp_path):
    watch = Watch()
    run = trainer(watch, tmp_path, max_steps=1, log_every_n_steps=7)
    assert watch in internals.callbacks(run)
    assert internals.log_every_n_steps(run) == 7
    assert type(internals.profiler(run)).__name__ == "PassThroughProfiler"

    from lightning.pytorch import LightningDataModule

    data = LightningDataModule()
    data.train_dataloader = loader
    run.fit(Line(), datamodule=data)
    assert internals.datamodule(run) is data


def test_metrics_that_are_shown_stay(tmp_path):
    def look(trainer, outputs, batch_idx):
        if batch_idx == 0:
            internals.show_metrics(trainer, {"loss": 2.0})
        return float(trainer.callback_metrics["loss"])

    watch = Watch(look)
    trainer(watch, tmp_path, max_steps=3).fit(Line(), loader())
    assert watch.seen == [2.0, 2.0, 2.0]


def test_what_self_log_was_given_is_known_before_it_is_written(tmp_path):
    watch = Watch(lambda trainer, outputs, batch_idx: internals.unwritten_metrics(trainer))
    trainer(watch, tmp_path, max_steps=4, log_every_n_steps=2).fit(Line(), loader())
    assert [set(each) - {"epoch"} for each in watch.seen] == [set(), {"mine"}, set(), {"mine"}]
    assert watch.seen[1]["mine"] == 3.0


def test_accumulation_divides_the_loss_and_steps_after_the_last_micro_batch(tmp_path):
    module = Line()
    watch = Watch(
        lambda trainer, outputs, batch_idx: (
            float(internals.micro_batch_loss(outputs["loss"], trainer)),
            module.steps,
        )
    )
    trainer(watch, tmp_path, max_steps=2, accumulate_grad_batches=2).fit(module, loader())
    assert watch.seen == [(1.0, 0), (1.0, 1), (1.0, 1), (1.0, 2)]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_checkpoint_resumes_at_a_whole_step_with_another_accumulation(tmp_path, accumulation):
    run = trainer(Watch(), tmp_path, max_steps=2, accumulate_grad_batches=2)
    run.fit(Line(), loader())
    run.save_checkpoint(tmp_path / "two.ckpt")
    checkpoint = torch.load(tmp_path / "two.ckpt", weights_only=True)
    internals.start_at_whole_step(checkpoint, accumulation)
    torch.save(checkpoint, tmp_path / "moved.ckpt")
    module = Line()
    watch = Watch(lambda trainer, outputs, batch_idx: (batch_idx, module.steps))
    trainer(watch, tmp_path, max_steps=3, accumulate_grad_batches=accumulation).fit(
        module, loader(), ckpt_path=tmp_path / "moved.ckpt"
    )
    assert [batch_idx for batch_idx, _ in watch.seen] == [2 * accumulation + i for i in range(accumulation)]
    assert [steps for _, steps in watch.seen] == [0] * (accumulation - 1) + [1]


@pytest.mark.parametrize("without", [False, True])
def test_a_training_without_steps_starts_and_ends(tmp_path, without):
    run = trainer(Watch(), tmp_path, max_steps=2)
    run.fit(Line(), loader())
    run.save_checkpoint(tmp_path / "done.ckpt")
    module, watch = Line(), Watch()
    again = trainer(watch, tmp_path, max_steps=2)
    if without:
        internals.fit_without_steps(again)
    again.fit(module, loader(), ckpt_path=tmp_path / "done.ckpt")
    assert watch.hooks == (["start", "end"] if without else [])
    assert module.steps == 0


def test_a_fused_optimisers_gradients_are_unscaled(tmp_path):
    class Scaler(torch.amp.GradScaler):
        unscaled = 0

        def unscale_(self, optimizer):
            self.unscaled += 1

    run = trainer(Watch(), tmp_path, max_steps=1)
    weights = [torch.nn.Parameter(torch.ones(2))]
    internals.unscale_gradients(run, torch.optim.Adam(weights, fused=True))  # full precision: there is no scaler
    run.precision_plugin.scaler = scaler = Scaler("cpu")
    internals.unscale_gradients(run, torch.optim.Adam(weights))
    assert scaler.unscaled == 0
    internals.unscale_gradients(run, torch.optim.Adam(weights, fused=True))
    assert scaler.unscaled == 1


def test_the_precision_plugin_for_fp16_has_a_scaler():
    from lightning.pytorch.plugins import MixedPrecision

    assert MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu")).scaler is not None


@pytest.mark.parametrize(("loss", "lowered"), [(1.0, False), (float("inf"), True)])
def test_the_losss_scale_is_known_and_falls_with_a_step_that_is_passed_over(loss, lowered):
    scaler, weight = torch.amp.GradScaler("cpu", init_scale=8.0), torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    assert internals.loss_scale(scaler, torch.device("cpu")) == 8.0  # before the first loss
    scaler.scale(loss * weight).backward()
    before = internals.loss_scale(scaler, torch.device("cpu"))
    scaler.step(optimizer)
    scaler.update()
    assert (before, internals.loss_scale(scaler, torch.device("cpu")) < before) == (8.0, lowered)


def test_what_ddp_was_given_is_known():
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

    assert internals.process_start(DDPStrategy(start_method="spawn")) == "spawn"
    assert internals.process_start(DDPStrategy()) == "popen"
    assert internals.process_start(SingleDeviceStrategy()) is None
    assert internals.state_of_its_own(DDPStrategy()) is None
    assert internals.state_of_its_own(DDPStrategy(model_averaging_period=2)) == "model_averaging_period"
    assert internals.state_of_its_own(DDPStrategy(ddp_comm_state=object())) == "ddp_comm_state"


def test_the_mesh_has_the_size_that_it_is_told():
    strategy = ModelParallelStrategy()
    assert strategy._data_parallel_size == "auto"  # what `setup_environment` reads
    internals.shard_over_all_processes(strategy, 6)
    assert strategy._data_parallel_size == 6


def test_what_fit_was_given_is_known_at_the_first_hook_and_can_be_replaced(tmp_path):
    class Fives(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(torch.full((4,), 5.0), batch_size=2)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch + 1

    class Replacing(Line):
        def configure_callbacks(self):
            self.given = internals.given(self.trainer)
            internals.train_on(self.trainer, self, Fives())
            return []

        def training_step(self, batch, batch_idx):
            self.seen = batch
            return super().training_step(batch, batch_idx)

    module, plain = Replacing(), loader()
    made = trainer(Watch(), tmp_path, max_steps=1)
    made.fit(module, plain)
    assert module.given is plain
    assert torch.equal(module.seen, torch.full((2,), 6.0))
    assert isinstance(internals.datamodule(made), Fives)


def test_ddp_is_told_that_a_step_may_leave_weights_out():
    strategy = DDPStrategy()
    internals.expect_unused_weights(strategy)
    assert strategy._ddp_kwargs["find_unused_parameters"] is True
    internals.expect_unused_weights(SingleDeviceStrategy())

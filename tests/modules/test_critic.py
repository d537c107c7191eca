"""A critic beside a consistency model: whose turn it is, what either trains on, and that no interruption shows."""

import json
import shutil
from contextlib import chdir
from functools import partial
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lightning_diff import load_denoiser
from lightning_diff.artifacts import checkpoints, read_record
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import Stream, Toy
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import ConsistencyModule, Critic
from lightning_diff.modules.in_turns import InTurns, MakeInTurns
from lightning_diff.nets.frozen import Frozen
from lightning_diff.noise import InfoNoise, LogNormal, WithLargest
from lightning_diff.objectives import consistency_loss, denoising_loss, matching_loss
from lightning_diff.objectives.distribution_matching import teacher_mean
from lightning_diff.runs import memory, recipe
from lightning_diff.runs.describe import describe
from lightning_diff.runs.sampler_settings import SamplerSettings

# Of 16 images a step, from step 3 on: critic, critic, student, and so on. Two steps of the student, or one.
CRITIC = "{_target_: lightning_diff.modules.Critic, every: 3, start: 32, levels: [0.5], loss: %s}"
STUDENT = f"model={{_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 64, critic: {CRITIC}}}"
EMA = "{_target_: lightning_diff.callbacks.EMA, profiles: {ema: {_target_: lightning_diff.ema.HalfLife, images: 64}}}"
LEVELS = "{_target_: lightning_diff.callbacks.CriticLevels}"
TANGENTS = "{_target_: lightning_diff.callbacks.Tangents}, {_target_: lightning_diff.callbacks.NoiseLevels, windows: 4}"
WATCHED = f"callbacks=[{EMA}, {LEVELS}, {TANGENTS}]"


@pytest.fixture(scope="module")
def trained(train_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic")
    with chdir(folder):
        train_here("teacher", f"callbacks=[{EMA}]", "model.condition_dropout=0.3")
    return folder / "runs" / "teacher"


@pytest.fixture
def teacher(trained, train):
    return shutil.copytree(trained, Path("runs/teacher"))


@pytest.fixture
def step(teacher, monkeypatch):
    """step(images_seen, critic, **parts): a module without a Trainer, and one batch through it."""

    def step(images_seen, critic, **parts):
        module = ConsistencyModule("runs/teacher", critic=critic, num_classes=8, warmup=0, **parts)
        module._teacher = Frozen(load_denoiser("runs/teacher"))
        critic.follow(module._teacher.value, Path("runs/teacher"))
        for weight in [*module.denoiser.parameters(), *critic.parameters()]:
            nn.init.normal_(weight, std=0.3)
        module.images_seen, module.seed, module.batch_size = images_seen, 3, 64
        monkeypatch.setattr(module, "_rekey_dropout", lambda batch_idx: None)  # which asks for a Trainer
        batch = module.prepare_batch(Stream(Toy(batch_size=64, n=64, conditional=True), seed=0).__getitems__(range(64)))
        return module, batch, module.training_step(batch, 0)

    return step


def logged(folder, *names):
    rows = [row for row in read(Path(folder) / "metrics.csv") if row["metric"] in names]
    return torch.tensor([float(row["value"]) for row in rows])


def test_they_take_turns_from_the_start_on():
    critic = Critic(every=3, start=100)  # in the middle of a step of 64 images
    turns = [critic.turn(images, 64) for images in range(0, 9 * 64, 64)]
    assert turns == ["before"] * 2 + ["critic", "critic", "student"] * 2 + ["critic"]


def test_the_critic_denoises_the_students_samples(step):
    module, batch, out = step(0, Critic(every=2, sigma_max=20.0))
    z, label = batch["critic_start"][:, 0], batch["label"]
    G = module.denoiser(20.0 * z, torch.tensor(20.0), label).detach()
    sigma = module.critic.own_noise.icdf(batch["u"]).float()
    loss = denoising_loss(module.critic.denoiser, G, sigma, batch["noise"], label)
    torch.testing.assert_close(out["per_sample_loss"], loss)
    torch.testing.assert_close(out["loss"], loss.mean())
    out["loss"].backward()
    assert all(weight.grad is None for weight in module.denoiser.parameters())
    assert sum(float(weight.grad.norm()) for weight in module.critic.parameters()) > 0


def test_samples_start_where_the_models_sampler_does(step):
    assert step(0, Critic(every=2))[0].critic.sigma_max == 80.0
    law = WithLargest(LogNormal(-1.0, 1.4), share=0.25, sigma=20.0)
    assert step(0, Critic(every=2, levels=(1.0,)), noise=law)[0].critic.sigma_max == 20.0
    with pytest.raises(ValueError, match="levels must decrease"):
        step(0, Critic(every=2, levels=(30.0,)), noise=law)


@pytest.mark.parametrize("loss", ["dmd", "sid"])
def test_the_student_is_matched_beside_its_own_loss(step, loss):
    critic = Critic(loss, every=2, weight=0.3, limits=(-1.0, 1.0))
    module, batch, out = step(64, critic, guidance=(1.0, 2.0))
    label, scale = batch["label"], batch["guidance"]
    own = consistency_loss(
        module.denoiser, batch["image"], module.noise.icdf(batch["u"]), batch["noise"], label,
        teacher=module._teacher.value, guidance=scale,
    ).loss  # fmt: skip
    w = module.weighting.w(out["log_snr"])
    G = module.denoiser(80.0 * batch["critic_start"][:, 0], torch.tensor(80.0), label, guidance=scale).clamp(-1, 1)
    sigma = critic.noise.icdf(batch["critic_u"]).float()
    matched = matching_loss(
        G, sigma, batch["critic_noise"], teacher_mean(module._teacher.value, label, scale),
        lambda x, sigma: critic.denoiser(x, sigma, label, guidance=scale), loss=loss,
    )  # fmt: skip
    torch.testing.assert_close(out["loss"], (w.exp() * own - w).mean() + 0.3 * matched.loss.mean())
    torch.testing.assert_close(out["critic"]["residual"], matched.residual.norm(dim=1))
    out["loss"].backward()
    assert all(weight.grad is None for weight in critic.parameters())
    assert sum(float(weight.grad.norm()) for weight in module.denoiser.parameters()) > 0


def test_a_reward_is_raised_along_its_gradient(step):
    def nearness(images, label):
        return -(images - 0.5).square().sum(1)

    def deaf(images, label):
        return nearness(images.detach(), label)

    module, batch, out = step(64, Critic(every=2, reward=nearness, reward_weight=0.25))
    G = module.denoiser(80.0 * batch["critic_start"][:, 0], torch.tensor(80.0), batch["label"]).clamp(-1, 1)
    torch.testing.assert_close(out["critic"]["reward"], nearness(G, None))
    (of_loss,) = torch.autograd.grad(out["loss"], module.denoiser.net.output.bias, retain_graph=True)
    module.critic._reward = None
    without = module.training_step(batch, 0)["loss"]
    (of_rest,) = torch.autograd.grad(without, module.denoiser.net.output.bias)
    (of_reward,) = torch.autograd.grad(nearness(G, None).mean(), module.denoiser.net.output.bias)
    torch.testing.assert_close(of_loss, of_rest - 0.25 * of_reward)
    with pytest.raises(UserError, match="deaf has no gradient by the images"):
        step(64, Critic(every=2, reward=deaf))


def test_draws_go_by_position_and_several_steps_end_at_the_lowest_level(step):
    critic = Critic(every=2, levels=(5.0, 0.5))
    module, batch, _ = step(64, critic)
    stream = {name: batch[name] for name in ("position", "image", "label")}
    seen = {critic.draw(stream, "student", 3, images, 64)["critic_start"].shape[1] for images in range(0, 4096, 64)}
    assert seen == {1, 2, 3}
    order = torch.randperm(64)
    shuffled = critic.draw({name: each[order] for name, each in stream.items()}, "student", 3, 64, 64)
    for name in ("critic_start", "critic_u", "critic_noise"):
        assert torch.equal(shuffled[name], batch[name][order])
    assert not torch.equal(batch["critic_noise"], batch["noise"])

    start = rng.normal(3, "critic start", range(64), (3, 2))
    x, label = torch.zeros(64, 2), batch["label"]
    for sigma, eps in zip((80.0, 5.0, 0.5), start.unbind(1), strict=True):
        x = module.denoiser(x + sigma * eps, torch.tensor(sigma), label)
    torch.testing.assert_close(critic.sample(module.denoiser, batch | {"critic_start": start}), x)


def test_its_weights_start_as_the_teachers_and_stand_in_the_checkpoint_but_not_in_the_model(teacher, train, state):
    still = "{_target_: torch.optim.SGD, _partial_: true, lr: 0.0}"
    folder = train(
        "student", STUDENT % "dmd", f"model.optimizer={still}", f"model.critic.optimizer={still}", "trainer.max_steps=4"
    )
    weights, averaged = state(folder)["state_dict"], load_file(teacher / "model.safetensors")
    for name, value in averaged.items():
        assert torch.equal(weights[f"critic.denoiser.net.{name}"], value)
        assert torch.equal(weights[f"denoiser.net.{name}"], value)
    assert load_file(folder / "model.safetensors").keys() == averaged.keys()


def test_the_levels_of_its_further_steps_are_kept_for_whoever_samples(teacher, train):
    folder = train("student", (STUDENT % "dmd").replace("levels: [0.5]", "levels: [2.0, 0.5]"), "trainer.max_steps=1")
    assert read_record(folder).levels == {2: [2.0], 3: [2.0, 0.5]}
    chosen = SamplerSettings(steps=3).sampling(read_record(folder))
    assert chosen.sigmas.tolist() == [80.0, 2.0, 0.5, 0.0]


@pytest.mark.whole
@pytest.mark.parametrize("loss", ["dmd", "sid"])
def test_a_run_interrupted_before_and_after_either_moves_is_the_run(teacher, train, state, loss):
    words = [STUDENT % loss, WATCHED, "model.net={dropout: 0.2}", "trainer.max_steps=8"]
    folder = train("whole", *words)
    whole = state(folder)
    for steps in (3, 4, 5, 6) if loss == "dmd" else (4, 5):  # of the critic, twice; of the student; of the critic again
        train("parts", *words[:-1], f"trainer.max_steps={steps}")
    parts = state(train("parts", *words))
    assert_same(parts["state_dict"], whole["state_dict"])
    assert_same(parts["optimizer_states"], whole["optimizer_states"])
    ema = "lightning_diff.EMA"
    assert_same(parts["callbacks"][ema], whole["callbacks"][ema])
    for names in (("train/loss",), ("train/critic_loss",), ("train/critic_residual",), ("train/tangent_norm",)):
        assert torch.equal(logged("runs/parts", *names), logged(folder, *names))


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def test_a_step_moves_one_network_and_averages_are_of_the_student(teacher, train, state):
    before, after = (
        state(train(name, STUDENT % "dmd", f"callbacks=[{EMA}]", f"trainer.max_steps={steps}"))
        for name, steps in (("three", 3), ("five", 5))
    )
    moved = {
        name.partition(".")[0]
        for name, value in after["state_dict"].items()
        if not torch.equal(value, before["state_dict"][name])
    }
    assert moved == {"critic", "denoiser", "weighting"}  # steps 4 and 5: the critic, the student
    one = state(train("four", STUDENT % "dmd", f"callbacks=[{EMA}]", "trainer.max_steps=4"))["state_dict"]
    assert {name.partition(".")[0] for name in one if not torch.equal(one[name], before["state_dict"][name])} == {
        "critic"
    }
    (averages,) = after["callbacks"]["lightning_diff.EMA"]["averages"].values()
    assert {f"denoiser.net.{name}" for name in averages} <= after["state_dict"].keys()


@pytest.mark.whole
def test_two_processes_and_accumulation_train_what_one_process_trains(teacher, train, state):
    words = [STUDENT % "dmd", f"callbacks=[{EMA}, {LEVELS}]", "trainer.gradient_clip_val=0.5"]
    plain = train("plain", *words)
    forked.run_two("train", "plain.yaml", *words, "name=two", "trainer.devices=2", "trainer.accumulate_grad_batches=2")
    one, two = state(plain)["state_dict"], state(Path("runs/two"))["state_dict"]
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    for names in (("train/loss",), ("train/critic_loss",), ("train/critic_residual",), ("train/grad_norm",)):
        assert len(logged(plain, *names))
        torch.testing.assert_close(logged("runs/two", *names), logged(plain, *names), rtol=1e-5, atol=1e-6)


FP16 = (
    "trainer.plugins={_target_: lightning.pytorch.plugins.MixedPrecision, precision: 16-mixed, device: cpu, "
    "scaler: {_target_: torch.amp.GradScaler, device: cpu, init_scale: 1024.0}}"
)


@pytest.mark.parametrize("extra", ["trainer.precision=bf16-mixed", "model.critic.precision=bf16", FP16])
def test_clipping_and_low_precision_go_with_it(teacher, train, extra):
    folder = train("student", STUDENT % "dmd", f"callbacks=[{LEVELS}]", "trainer.gradient_clip_val=0.1", extra)
    assert logged(folder, "train/critic_residual").isfinite().all()
    assert logged(folder, "train/grad_norm").isfinite().all()


def test_the_table_has_both_by_level(teacher, train):
    folder = train("student", STUDENT % "dmd", f"callbacks=[{LEVELS}]", "trainer.max_steps=12")
    header, *rows = (line.split(",") for line in (folder / "critic_levels.csv").read_text().splitlines())
    assert header == ["log_snr", "sigma", "critic_samples", "critic_loss", "student_samples", "residual"]
    counts = [sum(int(row[column]) for row in rows) for column in (2, 4)]
    assert counts == [64, 32]  # steps 7 to 12: four of the critic's, two of the student's
    assert all((row[2] == "0") == (row[3] == "") for row in rows)


def test_a_dry_run_counts_it(teacher, train):
    train("student", STUDENT % "dmd", "trainer.max_steps=1")  # writes student.yaml
    said = describe(recipe.load("student.yaml", [STUDENT % "sid", "name=other"]), "student.yaml")
    assert "# critic: sid, 1,858 parameters, moves in 2 of 3 steps from step 3 on" in said
    assert "critic and its optimiser's state" in said
    adam = partial(torch.optim.Adam, lr=1e-3)
    plain, beside = (
        memory.estimate(ConsistencyModule("runs/teacher", critic=critic, num_classes=8, optimizer=adam), (2,), 16)
        for critic in (None, Critic("sid", optimizer=adam))
    )
    network = 4 * 1858
    assert beside.critic == network + 2 * network + 4 * len(
        load_file("runs/teacher/model.safetensors")
    )  # two moments; steps
    assert (beside.weights, beside.optimizer, beside.gradients) == (plain.weights, plain.optimizer, plain.gradients)
    assert beside.activations == 3 * plain.activations
    assert plain.critic == 0


class TestInTurns:
    def parts(self):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(3)) for _ in range(3)]
        make = MakeInTurns(
            partial(torch.optim.RAdam, lr=0.1), partial(torch.optim.AdamW, lr=0.2, weight_decay=0.5), 1, "critic"
        )
        return weights, make(weights)

    def test_the_one_without_gradients_is_left_alone(self):
        weights, optimizer = self.parts()
        assert isinstance(optimizer, InTurns)
        before = [weight.detach().clone() for weight in weights]
        weights[0].grad = torch.ones(3)
        weights[1].grad = torch.ones(3)
        optimizer.step()
        assert torch.equal(weights[2], before[2])  # weight decay would have moved it
        assert weights[2] not in optimizer.state
        optimizer.zero_grad()
        weights[2].grad = torch.ones(3)
        optimizer.step()
        assert float(optimizer.state[weights[0]]["step"]) == float(optimizer.state[weights[2]]["step"]) == 1

    def test_its_steps_are_those_of_the_two_alone_and_go_on_from_its_state(self):
        weights, optimizer = self.parts()
        alone, other = self.parts()
        for round in range(4):
            if round == 2:  # as when a checkpoint is loaded
                state, optimizer = optimizer.state_dict(), MakeInTurns(*(lambda m: (m.first, m.second, m.count, m.key))(
                    MakeInTurns(partial(torch.optim.RAdam, lr=0.1), partial(torch.optim.AdamW, lr=0.2), 1, "critic")
                ))(weights)  # fmt: skip
                optimizer.load_state_dict(state)
            for i in ((0, 1), (2,))[round % 2]:
                weights[i].grad = torch.full((3,), 1.0 + i)
                alone[i].grad = torch.full((3,), 1.0 + i)
            optimizer.param_groups[round % 2]["lr"] = 0.05
            other.parts[round % 2].param_groups[0]["lr"] = 0.05
            optimizer.step()
            other.parts[round % 2].step()
            optimizer.zero_grad()
            other.zero_grad()
        assert all(torch.equal(*pair) for pair in zip(weights, alone, strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 1}, "every >= 2, .*got 1,"),
        ({"weight": 0.0}, "weight > 0"),
        ({"start": -1}, "start >= 0"),
        ({"start": 0.5}, "share of the run"),
        ({"levels": (0.5, 2.0)}, r"levels must decrease .*\[0.5, 2"),
        ({"limits": (1.0, -1.0)}, r"limits must be \(low, high\)"),
        ({"loss": "sid", "precision": "fp8"}, "loss=dmd"),
        ({"noise": InfoNoise(LogNormal())}, "learns from losses"),
        ({"reward_weight": 0.0}, "reward_weight"),
    ],
)
def test_mistakes_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Critic(**given)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.critic.loss=gan"], "loss: .*dmd, sid"),
        (["model.objective=training"], "critic .*objective=distillation"),
        (
            ["model.critic.optimizer={_target_: torch.optim.Adam, _partial_: true, lr: -1.0}"],
            "model.critic.optimizer: ",
        ),
        (["model.compile={_target_: lightning_diff.modules.Compile, optimizer: true}"], "compile.optimizer: .*critic"),
        (["model.critic=null", f"callbacks=[{LEVELS}]"], "CriticLevels: model.critic"),
    ],
)
def test_a_recipes_mistakes_are_refused_in_words(teacher, train, overrides, message):
    with pytest.raises(UserError, match=message):
        train("student", STUDENT % "dmd", *overrides)


def test_a_run_with_a_critic_is_no_run_without(teacher, train):
    train("student", STUDENT % "dmd", "trainer.max_steps=3")
    with pytest.raises(UserError, match="critic"):
        train("student", STUDENT % "dmd", "model.critic=null")


@pytest.mark.whole
@pytest.mark.parametrize("loss", ["dmd", "sid"])
def test_in_shards_it_trains_what_whole_networks_train(teacher, train, state, loss):
    """And goes on whole from a checkpoint in shards, written between two steps of the critic."""
    words = [STUDENT % loss, f"callbacks=[{EMA}, {LEVELS}]", "trainer.gradient_clip_val=0.5"]
    plain = train("plain", *words)
    shards = ["trainer.strategy=model_parallel", "trainer.devices=2"]
    forked.run_two("train", "plain.yaml", *words, "name=shards", *shards)
    forked.run_two("train", "plain.yaml", *words, "name=both", *shards, "trainer.max_steps=6")
    saved = checkpoints.read(checkpoints.newest(Path("runs/both/checkpoints")))["state_dict"]
    assert {name for name, value in saved.items() if value.is_meta} >= {
        f"{owner}denoiser.net.{name}"
        for owner in ("", "critic.")
        for name, _ in load_denoiser(plain).net.named_parameters()
    }
    train("both", *words)
    for other in ("shards", "both"):
        for names in (("train/loss",), ("train/critic_loss",), ("train/critic_residual",), ("train/grad_norm",)):
            assert len(logged(plain, *names))
            torch.testing.assert_close(logged(f"runs/{other}", *names), logged(plain, *names), rtol=1e-5, atol=1e-6)
    one, both = state(plain)["state_dict"], state(Path("runs/both"))["state_dict"]
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-5, atol=1e-6)


def test_in_shards_a_device_has_its_rows_of_the_critic(teacher):
    module = ConsistencyModule("runs/teacher", critic=Critic(), num_classes=8)
    whole = memory.estimate(module, (2,), 16)
    rows = memory.estimate(module, (2,), 16, processes=4, is_sharded=True)
    weights = list(module.critic.parameters())
    steps = 4 * len(weights)  # AdamW counts them for each weight, in float32, and has two moments of it
    assert whole.critic == steps + 3 * 4 * sum(weight.numel() for weight in weights)
    assert rows.critic == steps + 3 * 4 * sum(-(-len(weight) // 4) * weight[0].numel() for weight in weights)


def test_a_share_of_the_run_is_in_images_in_the_saved_recipe(teacher, train):
    folder = train("student", STUDENT % "dmd", "model.critic.start=0.25")
    assert recipe.read_yaml(folder / "recipe.yaml")["model"]["critic"]["start"] == 32
    assert json.loads((folder / "model.json").read_text())["kind"] == "consistency"

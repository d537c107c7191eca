"""Consistency models as runs: where they start, what they follow, what they remember of their teacher, what they refuse."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from messages import tells
from safetensors.torch import load_file

from lightning_diff import load_denoiser
from lightning_diff.artifacts.metrics_table import read
from lightning_diff.cli import main
from lightning_diff.data import Stream, Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import ConsistencyModule
from lightning_diff.nets import MLP
from lightning_diff.nets.frozen import Frozen
from lightning_diff.noise import LogNormal, WithLargest
from lightning_diff.objectives import consistency_loss
from lightning_diff.runs import recipe
from lightning_diff.weighting import AdaptiveWeight, Uniform

STUDENT = "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, warmup: 64}"
EMA = "callbacks=[{_target_: lightning_diff.callbacks.EMA, profiles: {ema: {_target_: lightning_diff.ema.HalfLife, images: 64}}}]"
RANGED = [
    "model.bounds=[-1.5, 1.5]",
    "model.noise={_target_: lightning_diff.noise.WithLargest, law: {_target_: lightning_diff.noise.LogNormal}}",
]
STILL = "model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.0}"
DROPPING = "model.condition_dropout=0.3"

SAME_GRADIENTS = '''
import torch
from lightning.pytorch import Callback
from torch import distributed

class SameGradients(Callback):
    """All processes have one gradient, which is not that of their own share alone."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        mine = torch.cat([p.grad.flatten() for p in pl_module.parameters()])
        everybodys = [torch.empty_like(mine) for _ in range(trainer.world_size)]
        distributed.all_gather(everybodys, mine)
        assert trainer.world_size == 2
        assert torch.equal(*everybodys)
        assert float(mine.norm()) > 0 or trainer.global_step == 0  # when it is its teacher
'''


@pytest.fixture
def teacher(train):
    return train("teacher", EMA, DROPPING)


@pytest.fixture
def step(teacher, monkeypatch):
    """step(**parts): a module without a Trainer, and one batch through it."""

    def step(images_seen=0, **parts):
        parts = {"num_classes": 8, **parts}
        module = ConsistencyModule("runs/teacher", **parts)
        for weight in module.denoiser.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        if module.objective == "distillation":
            module._teacher = Frozen(load_denoiser("runs/teacher"))
        module.images_seen, module.seed = images_seen, 3
        monkeypatch.setattr(module, "_rekey_dropout", lambda batch_idx: None)  # which asks for a Trainer
        batch = Stream(Toy(batch_size=64, n=64, conditional=True), seed=0).__getitems__(range(64))
        return module, module.prepare_batch(batch), module.training_step(batch, 0)

    return step


@pytest.mark.parametrize("objective", ["distillation", "training"])
def test_it_starts_as_its_teachers_average_and_says_what_it_is(teacher, train, objective):
    folder = train("student", STUDENT, STILL, f"model.objective={objective}", "trainer.max_steps=1")
    weights, averaged = load_file(folder / "model.safetensors"), load_file(teacher / "model.safetensors")
    assert weights.keys() == averaged.keys()
    assert all(torch.equal(weights[name], averaged[name]) for name in weights)
    assert load_denoiser(folder).kind == "consistency"
    assert load_denoiser(teacher).kind == "denoiser"
    record, before = (json.loads((path / "model.json").read_text()) for path in (folder, teacher))
    assert {name: record[name] for name in ("net", "sigma_data", "time", "shape")} == {
        name: before[name] for name in ("net", "sigma_data", "time", "shape")
    }


def test_the_teacher_has_no_place_in_the_module_and_its_hash_one_in_the_checkpoint(teacher, train, state):
    folder = train("student", STUDENT)
    checkpoint = state(folder)
    own = {"denoiser.net." + name for name in load_file(teacher / "model.safetensors")}
    assert checkpoint["state_dict"].keys() == own | {"weighting.coefficients"}
    assert checkpoint["teacher"] == json.loads((teacher / "model.json").read_text())["sha256"]


def test_resuming_with_another_teacher_is_refused_and_with_the_same_one_elsewhere_is_not(teacher, train):
    train("student", STUDENT, "trainer.max_steps=3")
    train("other", EMA, "model.condition_dropout=0.2")
    with pytest.raises(UserError, match=r"another teacher: .*hash \w{12}.* runs/other"):
        train("student", STUDENT.replace("runs/teacher", "runs/other"))
    teacher.rename("runs/moved")
    train("student", STUDENT.replace("runs/teacher", "runs/moved"))


def test_a_finished_model_needs_its_teacher_no_longer(teacher, train):
    folder = train("student", STUDENT, EMA)
    teacher.rename("runs/elsewhere")
    before = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert main(["export", "student"]) == 0
    assert (folder / "model.safetensors").read_bytes() == before
    assert load_denoiser(folder).kind == "consistency"


def test_training_goes_on_from_its_own_recipe_without_the_model_it_started_from(teacher, train, state):
    whole = state(train("whole", STUDENT, "model.objective=training"))
    folder = train("parts", STUDENT, "model.objective=training", "trainer.max_steps=3")
    teacher.rename("runs/elsewhere")
    parts = state(train("parts", f"model={json.dumps(recipe.read_yaml(folder / 'recipe.yaml')['model'])}"))
    assert all(torch.equal(parts["state_dict"][name], value) for name, value in whole["state_dict"].items())


def test_a_resumed_run_with_bounds_and_a_largest_level_is_the_uninterrupted_one(teacher, train, state):
    whole = train("whole", STUDENT, *RANGED)
    train("parts", STUDENT, *RANGED, "trainer.max_steps=3")
    parts = train("parts", STUDENT, *RANGED)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    record = json.loads((parts / "model.json").read_text())
    assert record["bounds"] == [-1.5, 1.5]
    assert record["sampling"] == {"arguments": {"sigma_max": 80.0}}


def test_a_students_bounds_are_its_teachers_in_the_loss(teacher, train, monkeypatch):
    seen = []

    def loss(denoiser, *arguments, teacher, **options):
        seen.append((denoiser.bounds, teacher.bounds))
        return consistency_loss(denoiser, *arguments, teacher=teacher, **options)

    monkeypatch.setattr("lightning_diff.modules.consistency.consistency_loss", loss)
    train("student", STUDENT, RANGED[0], "trainer.max_steps=1")
    assert seen == [((-1.5, 1.5), (-1.5, 1.5))]
    assert load_denoiser(teacher).bounds is None


def test_the_step_is_the_weighted_loss_at_the_warm_ups_share(step):
    for images, share in ((0, 0.0), (16, 0.25), (640, 1.0)):
        module, batch, out = step(images, warmup=64)
        sigma = module.noise.icdf(batch["u"])
        result = consistency_loss(
            module.denoiser,
            batch["image"],
            sigma,
            batch["noise"],
            batch["label"],
            teacher=module._teacher.value,
            warmup=share,
        )
        torch.testing.assert_close(out["per_sample_loss"], result.loss)
        torch.testing.assert_close(out["details"]["tangent_norm"], result.tangent.norm(dim=1))
        torch.testing.assert_close(out["details"]["dF_dt"], result.dF_dt.norm(dim=1))
        w = module.weighting.w(out["log_snr"])
        torch.testing.assert_close(out["loss"], (w.exp() * result.loss - w).mean())
        torch.testing.assert_close(out["weight"], w.exp().detach())


def test_its_weight_starts_where_it_belongs_and_can_be_switched_off(step):
    assert step()[0].weighting.start == pytest.approx(0.6931472)  # ln 2, in the plane
    assert step(normalisation="rms")[0].weighting.start == 0
    module, _, out = step(weighting=Uniform())
    torch.testing.assert_close(out["loss"], out["per_sample_loss"].mean())
    assert not any(isinstance(part, AdaptiveWeight) for part in module.modules())


def test_a_share_at_the_largest_level_goes_without_a_learned_weight(step):
    law = WithLargest(LogNormal(-1.0, 1.4))
    module, _, out = step(noise=law)
    assert isinstance(module.weighting, Uniform)
    torch.testing.assert_close(out["loss"], out["per_sample_loss"].mean())
    assert isinstance(step(noise=law, weighting=AdaptiveWeight((2,)))[0].weighting, AdaptiveWeight)


def test_guidance_is_drawn_by_position_and_taught_as_an_input(step, train, teacher):
    module, batch, _ = step(guidance=(1.0, 2.0))
    scales = batch["guidance"]
    assert 1 <= float(scales.min()) < 1.1
    assert 1.9 < float(scales.max()) <= 2
    order = torch.randperm(64)
    shuffled = module.prepare_batch({"position": batch["position"][order], "label": batch["label"][order]})["guidance"]
    assert torch.equal(shuffled, scales[order])
    folder = train("guided", STUDENT, "model.guidance=[1,2]", "trainer.max_steps=60", "trainer.log_every_n_steps=60")
    denoiser = load_denoiser(folder)
    x, sigma, label = torch.randn(8, 2), torch.full((8,), 2.0), torch.arange(8)
    low, high = (denoiser(x, sigma, label, guidance=torch.full((8,), scale)) for scale in (1.0, 2.0))
    assert not torch.equal(low, high)
    assert torch.equal(low, denoiser(x, sigma, label))


def test_the_network_may_differ_from_the_teachers_in_some_arguments(teacher, train):
    folder = train("student", STUDENT, "model.net={dropout: 0.5}", "trainer.max_steps=2")
    for file in ("recipe.yaml", "model.json"):
        net = recipe.read_yaml(folder / file)  # JSON is YAML
        assert (net.get("model", net))["net"]["dropout"] == 0.5
    assert json.loads((teacher / "model.json").read_text())["net"].get("dropout", 0) == 0


def test_a_recipe_that_says_it_all_gives_the_same_run(teacher, train, state):
    """The resolved recipe in the run folder, in which the network is written out."""
    first = train("first", STUDENT, "trainer.max_steps=4")
    resolved = json.dumps(recipe.read_yaml(first / "recipe.yaml")["model"])
    again = train("again", f"model={resolved}", "trainer.max_steps=4")
    one, other = state(first)["state_dict"], state(again)["state_dict"]
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.whole
def test_two_processes_have_one_gradient_and_the_losses_of_one_process(teacher, train, tmp_path):
    plain = train("plain", STUDENT, "model.net={dropout: 0.0}", *RANGED)
    (tmp_path / "same_gradients.py").write_text(SAME_GRADIENTS)
    words = [STUDENT, *RANGED, "name=two", "callbacks=[{_target_: same_gradients.SameGradients}]", "trainer.devices=2"]
    forked.run_two("train", "plain.yaml", *words)
    one, two = (
        torch.tensor(
            [float(row["value"]) for row in read(Path(folder) / "metrics.csv") if row["metric"] == "train/loss"]
        )
        for folder in (plain, "runs/two")
    )
    assert len(one) == 8
    torch.testing.assert_close(one, two, rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
def test_a_compiled_run_has_the_losses_of_an_eager_one(teacher, train):
    plain = train("plain", STUDENT)
    command = [
        sys.executable,
        "-m",
        "lightning_diff",
        "train",
        "plain.yaml",
        STUDENT,
        "name=fast",
        "model.compile=true",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    one, other = (
        torch.tensor(
            [float(row["value"]) for row in read(Path(folder) / "metrics.csv") if row["metric"] == "train/loss"]
        )
        for folder in (plain, "runs/fast")
    )
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.teacher=runs/absent"], "model.teacher: runs/absent: "),
        (
            ["model.teacher=runs/digits_edm"],
            "runs/digits_edm: .*`lightning-diff train digits_edm`",
        ),
        (["model.guidance=[1,2]", "data.conditional=false"], "guidance needs classes"),
        (
            ["model.guidance=[1,2]", "model.objective=training"],
            "guidance .*objective=distillation",
        ),
        (["model.guidance=[2,1]"], r"guidance .*\(low, high\).* 2 and 1"),
        (["model.net={drop: 0.1}"], "model.net.drop: .*lightning_diff.nets.MLP.* dropout"),
        (["model.net={width: 32}"], "runs/teacher: .*another network"),
        (["model.sigma_data=0.5"], "sigma_data 0.5, .* runs/teacher .* leave out sigma_data"),
        (["model.time=trigflow"], "trigflow"),
        (["model.warmup=-1"], "warmup >= 0 .*-1, 0.1"),
        (["data.conditional=false"], "8 classes.* 0"),
        (["model.objective=distill"], "mean distillation"),
        (
            [
                "model.noise={_target_: lightning_diff.noise.InfoNoise, base: {_target_: lightning_diff.noise.LogNormal}}"
            ],
            "InfoNoise .*denoiser",
        ),
    ],
)
def test_mistakes_are_refused_in_words(teacher, train, overrides, message):
    with pytest.raises(UserError, match=message):
        train("student", STUDENT, *overrides)


def test_a_consistency_model_is_no_teacher_but_a_start(teacher, train):
    train("student", STUDENT)
    with pytest.raises(UserError, match=r"model.teacher: runs/student .*consistency"):
        train("again", STUDENT.replace("runs/teacher", "runs/student"))
    train("training", STUDENT.replace("runs/teacher", "runs/student"), "model.objective=training")


def test_distillation_may_go_on_from_training(teacher, train, state):
    train("student", STUDENT, "model.objective=training", "trainer.max_steps=3")
    assert state(train("student", STUDENT, "resume=force"))["images_seen"] == 128


@pytest.mark.parametrize("choice", [{"objective": "sCD"}, {"normalisation": "L2"}, {"derivative": "jpv"}])
def test_misspelt_choices_are_refused_without_a_recipe_too(teacher, choice):
    with pytest.raises(Exception, match=next(iter(choice))):  # the annotations' own, where they are checked
        ConsistencyModule(teacher, num_classes=8, **choice)


def test_it_needs_no_recipe(teacher):
    module = ConsistencyModule(teacher, num_classes=8)
    assert isinstance(module.denoiser.net, MLP)
    assert module.denoiser.sigma_data == load_denoiser(teacher).sigma_data


class OnlyBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("how", ["no operation for it", "no rule for it"])
def test_a_network_without_forward_mode_is_told_of_the_other_derivative(step, monkeypatch, how):
    forward = MLP.forward

    def backwards(self, x, *arguments, **conditioning):
        x = OnlyBackwards.apply(x) if how == "no rule for it" else torch.ops.aten._pdist_forward(x[:2]).sum() + x
        return forward(self, x, *arguments, **conditioning)

    monkeypatch.setattr(MLP, "forward", backwards)
    with pytest.raises(UserError) as error:
        step(objective="training")
    assert tells(str(error.value), "model.derivative: MLP ... model.derivative=central")
    if how == "no rule for it":
        step(objective="training", derivative="central")

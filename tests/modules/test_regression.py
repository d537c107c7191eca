"""A consistency model by regression onto its teacher's sampling paths: what it trains on, and that no interruption shows."""

import shutil
from contextlib import chdir
from functools import partial
from itertools import pairwise
from pathlib import Path

import forked
import pytest
import torch
from lightning.pytorch import Trainer
from messages import tells
from model_files import same, weights

from lightning_diff import load_denoiser
from lightning_diff.artifacts import read_record
from lightning_diff.data import Stream, Toy
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError
from lightning_diff.modules import ConsistencyModule, Critic, TrainingData
from lightning_diff.modules.path_batches import PathBatches, Place
from lightning_diff.nets import UNet
from lightning_diff.nets.frozen import Frozen
from lightning_diff.noise import InfoNoise, LogNormal, WithLargest
from lightning_diff.objectives import path_regression_loss, teacher_paths
from lightning_diff.objectives.distribution_matching import teacher_mean
from lightning_diff.runs import memory, recipe
from lightning_diff.runs.describe import describe
from lightning_diff.schedules.grids import karras
from lightning_diff.weighting import Uniform

REGRESSION = (
    "model={_target_: lightning_diff.ConsistencyModule, teacher: runs/teacher, objective: regression, nodes: 5%s}"
)
PLAIN = REGRESSION % ""
LAST = torch.channels_last
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
GUIDED = REGRESSION % ", guidance: [1.0, 2.0]"
BESIDE = REGRESSION % ", critic: {_target_: lightning_diff.modules.Critic, every: 2, start: 32}"


@pytest.fixture(scope="module")
def trained(train_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    with chdir(folder):
        train_here("teacher", "model.condition_dropout=0.3")
    return folder / "runs" / "teacher"


@pytest.fixture
def teacher(trained, train):
    return shutil.copytree(trained, Path("runs/teacher"))


@pytest.fixture
def batches():
    """batches(step): the stream's batch of 8 examples at this step."""
    stream = Stream(Toy(batch_size=8, n=64, conditional=True), seed=0)
    return lambda step: stream.__getitems__(range(8 * step, 8 * step + 8))


def numbers(paths, sigma):
    """Which node has this level."""
    (found,) = (i for i, each in enumerate(paths.sigmas) if each == pytest.approx(sigma, rel=1e-12))
    return found


class TestPathBatches:
    @pytest.fixture
    def at(self, teacher, batches):
        """at(step, paths, rows): what the 8 places of a batch, or some of them, regress on in a step."""
        denoiser, read = load_denoiser(teacher), []

        def at(step, paths, rows=slice(None), first=None):
            def again(positions):
                read.append(positions.tolist())
                return {name: value[rows] for name, value in batches(int(positions[0]) // 8).items()}

            batch = {name: value[rows] for name, value in batches(step).items()}
            first = step // 4 * 4 * 8 if first is None else first
            found = paths.nodes(denoiser, batch, Place(step, first, 8 * step, 8, 0), again)
            return found, read

        return at

    def test_in_n_steps_each_place_has_all_nodes_of_one_path_and_each_step_has_all_levels(self, at, batches, teacher):
        paths = PathBatches(4, 80.0)
        assert paths.sigmas == pytest.approx(karras(4)[:4].tolist())
        origin = batches(4)
        denoise = teacher_mean(load_denoiser(teacher), origin["label"])
        expected = teacher_paths(denoise, origin["noise"], paths.sigmas)
        seen = []
        for step in range(4, 8):
            found, read = at(step, paths)
            assert torch.equal(found.end, expected.ends)
            assert torch.equal(found.given, origin["label"])
            assert sorted(found.sigma.tolist()) == pytest.approx(sorted(2 * paths.sigmas), rel=1e-12)
            node = torch.tensor([numbers(paths, sigma) for sigma in found.sigma.tolist()])
            assert torch.equal(found.x, expected.points[node, torch.arange(8)])
            seen.append(node)
        assert torch.stack(seen).sort(0).values.T.tolist() == 8 * [[0, 1, 2, 3]]
        assert not read
        assert not torch.equal(at(8, paths)[0].end, expected.ends)

    def test_one_that_begins_in_the_middle_or_has_some_of_the_places_trains_on_the_same(self, at):
        whole, middle, part = (PathBatches(4, 80.0) for _ in range(3))
        at(4, whole)
        found, _ = at(6, whole)
        again, read = at(6, middle)
        assert read == [list(range(32, 40))]
        mine, _ = at(6, part, slice(1, None, 2))
        for name in ("x", "sigma", "end", "given"):
            assert torch.equal(getattr(again, name), getattr(found, name))
            torch.testing.assert_close(getattr(mine, name), getattr(found, name)[1::2])

    def test_a_small_batch_has_levels_evenly_apart(self, at):
        paths = PathBatches(16, 80.0)
        for step in range(4):  # of the same paths
            found, _ = at(step, paths)
            nodes = sorted(numbers(paths, sigma) for sigma in found.sigma.tolist())
            assert nodes == sorted((11 * step + 2 * place) % 16 for place in range(8))

    @pytest.mark.parametrize("count", [2, 3, 4, 8, 16, 30])
    def test_a_path_comes_again_at_a_level_far_away(self, at, count):
        paths = PathBatches(count, 80.0)
        visits = [numbers(paths, at(step, paths, first=0)[0].sigma[0].item()) for step in range(count)]
        assert sorted(visits) == list(range(count))
        assert all(abs(one - other) > count // 6 for one, other in pairwise(visits))

    def test_a_path_has_two_nodes(self):
        with pytest.raises(ValueError, match="nodes >= 2"):
            PathBatches(1, 80.0)


def test_the_steps_of_a_student_beside_a_critic_are_counted_from_images_and_back():
    critic = Critic(every=3, start=100)  # in the middle of a step of 64 images
    students = [step for step in range(40) if critic.turn(64 * step, 64) != "critic"]
    assert [critic.images_before(number, 64) for number in range(len(students))] == [64 * step for step in students]
    assert [critic.student_steps(64 * step, 64) for step in students] == list(range(len(students)))
    paths = PathBatches(4, 80.0)
    for number, step in enumerate(students):
        first = 64 * students[number // 4 * 4]
        assert paths.place(64 * step, 64, 1, critic) == Place(number, first, 64 * step, 64, 1)
        assert paths.place(64 * step, 64, 0, None) == Place(step, step // 4 * 4 * 64, 64 * step, 64, 0)


def test_its_weight_is_constant_and_its_law_is_that_of_the_nodes(teacher):
    build = partial(ConsistencyModule, teacher, objective="regression", num_classes=8)
    module = build()
    assert isinstance(module.weighting, Uniform)
    levels = module.noise.icdf(torch.tensor([1e-12, 0.5, 1 - 1e-12], dtype=torch.float64))
    torch.testing.assert_close(levels, torch.tensor([0.002, karras(3)[1], 80.0], dtype=torch.float64))
    law = WithLargest(LogNormal(-1.0, 1.4), sigma=20.0)
    lower = build(noise=law)
    assert lower.denoiser.sigma_max == pytest.approx(20.0)
    assert lower.noise.icdf(torch.tensor(1 - 1e-12)).item() == pytest.approx(20.0)


def test_the_loss_falls_to_what_a_student_can_learn(teacher, train):
    """With the paths of one noise, over and over, a network learns where they end."""
    module = ConsistencyModule(teacher, objective="regression", nodes=4, num_classes=8)
    module._teacher = Frozen(load_denoiser(teacher))
    batch = Stream(Toy(batch_size=64, n=64, conditional=True), seed=0).__getitems__(range(64))
    optimizer = torch.optim.Adam(module.denoiser.net.parameters(), lr=1e-2)
    losses = []
    for step in range(400):
        nodes = module._paths.nodes(
            module._teacher.value,
            batch,
            Place(step, 0, 0, 64, 0),
            lambda positions: batch,
        )
        loss = path_regression_loss(module.denoiser, nodes.x, nodes.sigma, nodes.end, nodes.given).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.1 * sum(losses[:4])


@pytest.mark.parametrize("words", [PLAIN, GUIDED, BESIDE])
def test_a_run_interrupted_within_a_path_is_the_run(teacher, train, state, words):
    whole = state(train("whole", words, "model.net={dropout: 0.2}", "trainer.max_steps=12"))
    for steps in (2, 5, 8):  # of paths of 5 steps
        train("parts", words, "model.net={dropout: 0.2}", f"trainer.max_steps={steps}")
    parts = state(train("parts", words, "model.net={dropout: 0.2}", "trainer.max_steps=12"))
    assert same(parts["state_dict"], whole["state_dict"])
    assert read_record("runs/parts").kind == "consistency"


@pytest.mark.whole
@pytest.mark.parametrize("words", [PLAIN, GUIDED, BESIDE])
def test_two_processes_shards_and_accumulation_train_what_one_process_trains(teacher, train, words):
    one = weights(train("plain", words, "trainer.max_steps=8"))
    train("two", words, "trainer.max_steps=3")  # goes on within a path, on two
    more = "trainer.devices=2", "trainer.max_steps=8"
    forked.run_two("train", "plain.yaml", words, *more, "name=two", "trainer.accumulate_grad_batches=2")
    forked.run_two("train", "plain.yaml", words, *more, "name=shards", "trainer.strategy=model_parallel")
    for name in ("two", "shards"):
        there = weights(Path("runs") / name)
        for key, value in one.items():
            torch.testing.assert_close(there[key], value, rtol=1e-5, atol=1e-6)


def test_a_network_without_forward_mode_will_do(teacher, train, monkeypatch):
    """Whose derivative distillation takes, and this objective does not."""
    monkeypatch.setattr("lightning_diff.tangent.jvp", lambda *_: pytest.fail("a derivative was taken"))
    train("student", PLAIN, "trainer.max_steps=1")


def test_a_warm_up_is_no_matter_and_a_dry_run_says_what_it_is(teacher, train, capsys):
    train("first", PLAIN)
    words = [REGRESSION % ", start: first, warmup: 64", "trainer.max_steps=4"]
    train("second", *words)
    assert "model.warmup" not in capsys.readouterr().out
    said = describe(recipe.load("second.yaml", [*words, "name=third"]), "second.yaml")
    assert "objective: regression" in said
    assert "the teacher's paths" in said
    estimate = partial(memory.estimate, shape=(2,), images=4, accumulation=2)
    module = partial(ConsistencyModule, teacher, nodes=5, num_classes=8)
    assert estimate(module(objective="regression")).paths == 4 * 2 * 8 * 6  # float32, of 8 images: 5 nodes and the end
    assert estimate(module()).paths == 0


def test_what_does_not_go_with_it_is_refused(teacher, train):
    with pytest.raises(ValueError, match="nodes >= 2"):
        ConsistencyModule(teacher, objective="regression", nodes=1, num_classes=8)
    with pytest.raises(ValueError, match="InfoNoise"):
        ConsistencyModule(teacher, objective="regression", noise=InfoNoise(LogNormal(-1.0, 1.4)), num_classes=8)
    with pytest.raises(UserError) as refused:
        train("student", PLAIN, "callbacks=[{_target_: lightning_diff.callbacks.Tangents}]")
    assert tells(str(refused.value), "Tangents")
    train("plain", PLAIN)
    with pytest.raises(UserError) as refused:
        train("again", PLAIN.replace("runs/teacher", "runs/plain"))
    assert tells(str(refused.value), "model.teacher: runs/plain ... consistency model ...")


def test_a_second_fit_draws_its_own_paths_and_none_are_kept_after_the_last(teacher):
    def fitted(module, seed, accumulation):
        trainer = Trainer(max_steps=3, accumulate_grad_batches=accumulation, **QUIET)
        trainer.fit(module, datamodule=TrainingData(Toy(batch_size=8, n=64, conditional=True), rng.Seed(seed)))
        assert not module._paths._kept
        return {name: value.clone() for name, value in module.denoiser.net.state_dict().items()}

    def fresh():
        return ConsistencyModule(teacher, objective="regression", nodes=16, num_classes=8, optimizer=still)

    still = partial(torch.optim.SGD, lr=0.0)
    module = fresh()
    seen = []
    keep = module._outputs
    module._outputs = lambda batch, sigma, loss: seen.append(loss.detach().clone()) or keep(batch, sigma, loss)
    fitted(module, 0, 1)
    module.images_seen = 0
    fitted(module, 1, 2)
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert len(first) == len(second) == 24
    module = fresh()
    again = []
    keep_of_it = module._outputs
    module._outputs = lambda batch, sigma, loss: again.append(loss.detach().clone()) or keep_of_it(batch, sigma, loss)
    fitted(module, 1, 1)
    torch.testing.assert_close(second.sort().values, torch.cat(again).sort().values)
    assert not torch.allclose(first, torch.cat(again))


def test_augmentation_and_mirrors_are_no_matter_and_that_is_said(train, capsys):
    digits = "data={_target_: lightning_diff.data.Digits, batch_size: 16%s}"
    augment = ", flip: true, augment: {_target_: lightning_diff.data.Augment, probability: 0.5}"
    net = "model.net={_target_: lightning_diff.nets.DiT, width: 16, depth: 1, heads: 2, patch_size: 4%s}"
    train("teacher", digits % "", net % ", augment_dim: 9")  # which was shown no augmented image
    capsys.readouterr()
    plain = weights(train("plain", digits % "", PLAIN))
    assert "is not used" not in capsys.readouterr().out
    folder = train("augmented", digits % augment, PLAIN)
    said = capsys.readouterr().out
    assert "data.flip: is not used" in said
    assert "data.augment: is not used" in said
    assert same(weights(folder), plain)
    assert read_record(folder).augment is False


def test_teacher_and_student_see_one_memory_format():
    layouts = []
    net = UNet((3, 4, 4), channels=8, channel_mult=[1], num_blocks=1, attention=[])
    net.register_forward_pre_hook(lambda net, args: layouts.append(args[0].is_contiguous(memory_format=LAST)))
    teacher = Denoiser(net.to(memory_format=LAST).eval(), 0.5)
    batch = {"noise": torch.randn(8, 3, 4, 4), "position": torch.arange(8)}
    found = PathBatches(4, 80.0).nodes(
        teacher,
        batch,
        Place(0, 0, 0, 8, 0),
        lambda positions: batch,
        lambda x: x.contiguous(memory_format=LAST),
    )
    assert layouts == 4 * [True]
    assert found.x.is_contiguous(memory_format=LAST)

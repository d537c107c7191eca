"""Lengths that a recipe gives as parts of its run: images in the saved recipe, and of the longer run when that goes on."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from messages import tells

from lightning_diff.artifacts.metrics_table import read
from lightning_diff.data import Toy
from lightning_diff.foundation.errors import UserError
from lightning_diff.learning_rate import Cosine
from lightning_diff.modules import DiffusionModule, TrainingData
from lightning_diff.nets import MLP
from lightning_diff.runs import recipe, resume
from lightning_diff.runs.recipe.of_run import value_at

COSINE = "model.learning_rate={_target_: lightning_diff.learning_rate.Cosine, %s}"
WARM = COSINE % "warmup: 0.25"  # of 8 steps of 16 images: 32
RATE = "model.learning_rate."
WEIGHTING = "model.weighting={_target_: lightning_diff.weighting.MeasuredVariance, warmup: %s}"
NOISE = "model.noise={_target_: lightning_diff.noise.AdaptiveNoise, base: {_target_: lightning_diff.noise.LogNormal}, warmup: %s}"
# At their packaged lengths, as the recipes had them in images; data.batch_size x trainer.max_steps.
PACKAGED = {
    "captions_art": {"learning_rate.total": 2_400, "learning_rate.warmup": 160},
    "captions_flow": {"learning_rate.total": 160_000, "learning_rate.warmup": 12_800},
    "captions_scd": {"learning_rate.total": 128_000, "warmup": 25_600},
    "cifar10_art": {"learning_rate.total": 19_200, "learning_rate.warmup": 1_280},
    "cifar10_edm": {"learning_rate.warmup": 10_000_000},
    "cifar10_scd": {"warmup": 5_120_000},
    "cifar10_one_step": {"warmup": 5_120_000, "critic.start": 25_600_000},
    "cifar10_regression": {"learning_rate.total": 51_200_000, "warmup": 1_280_000},
    "cifar10_sct": {"warmup": 5_120_000},
    "digits_art": {"learning_rate.total": 2_400, "learning_rate.warmup": 160},
    "digits_edm": {"learning_rate.total": 307_200, "learning_rate.warmup": 10_000},
    "digits_end_point": {"learning_rate.total": 2_400, "learning_rate.warmup": 160},
    "digits_scd": {"learning_rate.total": 768_000},
    "digits_one_step": {"learning_rate.total": 256_000, "warmup": 25_600, "critic.start": 102_400},
    "digits_one_step_reward": {"learning_rate.total": 64_000},
    "digits_regression": {"learning_rate.total": 320_000},
    "digits_sct": {"learning_rate.total": 512_000},
    "digits_steps": {"learning_rate.total": 4_800, "learning_rate.warmup": 160},
    "imagenet64_dit_1b": {"learning_rate.warmup": 10_000_000},
    "imagenet64_edm2_s": {"learning_rate.warmup": 9_985_799},
    "imagenet64_scd": {"warmup": 20_480_000},
    "imagenet512_edm2_s": {"learning_rate.warmup": 10_007_274},
    "imagenet512_scd": {"warmup": 20_480_000},
}


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_recipe_has_its_images_at_its_own_length(name):
    settings = recipe.load(name)
    assert {key: value_at(settings, f"model.{key}") for key in PACKAGED[name]} == PACKAGED[name]
    assert PACKAGED[name].keys() == {key.removeprefix("model.") for key in settings["of_run"]}


def rates(folder: Path) -> list[float]:
    return [float(row["value"]) for row in read(folder / "metrics.csv") if row["metric"] == "train/learning_rate"]


def test_the_saved_recipe_holds_images_and_loads_as_the_same_recipe(train):
    folder = train("run", WARM)
    saved = recipe.read_yaml(folder / "recipe.yaml")
    assert {name: value_at(saved, RATE + name) for name in ("total", "warmup")} == {"total": 128, "warmup": 32}
    assert saved["of_run"][f"{RATE}total"] == {"written": None, "images": 128}
    again = recipe.load(folder)
    assert again == {key: value for key, value in saved.items() if key != "generator"} | {
        "generator": saved["generator"]
    }
    assert rates(folder) == pytest.approx([1e-3 * Cosine(128, warmup=32)(16 * step) for step in range(1, 9)])


@pytest.mark.parametrize("by", ["its recipe", "its folder"])
def test_parts_follow_a_longer_run_which_is_said_and_numbers_stay(train, capsys, by):
    folder = train("run", WARM)
    assert rates(folder)[-1] == 0
    capsys.readouterr()
    if by == "its recipe":
        train("run", WARM, "trainer.max_steps=16")
    else:
        from lightning_diff.runs.train import train as run

        run(recipe.load(folder, ["trainer.max_steps=16"]), folder)
    said = capsys.readouterr().out.splitlines()
    for change in (f"{RATE}total was 128, is 256", f"{RATE}warmup was 32, is 64"):
        assert f"changed: {change}" in said
    assert not any(line.startswith("warning") for line in said)
    assert rates(folder)[8:] == pytest.approx([1e-3 * Cosine(256, warmup=64)(16 * step) for step in range(9, 17)])
    assert value_at(recipe.read_yaml(folder / "recipe.yaml"), f"{RATE}total") == 256


def test_a_number_stays_and_a_longer_run_is_warned_of_its_rate_of_0(train, capsys):
    folder = train("run", COSINE % "total: 128")
    capsys.readouterr()
    train("run", COSINE % "total: 128", "trainer.max_steps=16")
    out = capsys.readouterr().out
    assert tells(out, "... warning: model.learning_rate ... 0 for 100% ... step 9 of 16 ... total is 128 images ...")
    assert rates(folder)[8:] == [0] * 8


def loaded(tmp_path: Path, rate: str, steps: int = 8) -> recipe.Recipe:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {_target_: lightning_diff.DiffusionModule, net: {_target_: lightning_diff.nets.MLP, width: 16}}\n"
        "data: {_target_: lightning_diff.data.Toy, n: 256, batch_size: 16}\n"
    )
    return recipe.load(path, [COSINE % rate, f"trainer.max_steps={steps}"])


@pytest.mark.parametrize(
    ("before", "after", "is_harmless"),
    [
        ("warmup: 0.25", "warmup: 0.25", True),
        ("total: 128, warmup: 32", "warmup: 0.25", True),  # what the parts would have been
        ("total: 100, warmup: 32", "warmup: 0.25", False),
        ("warmup: 0.25", "warmup: 0.5", False),
        ("warmup: 0.25", "total: 256, warmup: 0.25", False),  # a number is meant
    ],
)
def test_only_what_follows_from_the_length_is_harmless(tmp_path, before, after, is_harmless):
    harmless, decisive = resume.compare(loaded(tmp_path, before), loaded(tmp_path, after, steps=16))
    assert any(change.key.startswith(RATE) for change in harmless) or not is_harmless
    assert (decisive == []) is is_harmless
    assert all(change.key.startswith("model.learning_rate") for change in decisive)


def test_the_same_images_in_another_form_are_no_change(tmp_path):
    parts, numbers = loaded(tmp_path, "warmup: 0.25"), loaded(tmp_path, "total: 128, warmup: 32")
    assert resume.compare(parts, numbers) == resume.compare(numbers, parts) == ([], [])


def test_a_number_that_is_put_into_a_saved_recipe_stays(train):
    file = train("run", WARM) / "recipe.yaml"
    file.write_text(file.read_text().replace("total: 128", "total: 100"))
    longer = recipe.load(file, ["trainer.max_steps=16"])
    assert {name: value_at(longer, RATE + name) for name in ("total", "warmup")} == {"total": 100, "warmup": 64}
    assert value_at(recipe.load(file, [f"{RATE}warmup=5"]), f"{RATE}warmup") == 5


def test_a_recipe_that_extends_a_saved_one_has_its_parts(train, tmp_path):
    folder = train("run", WARM)
    (tmp_path / "child.yaml").write_text(f"extends: {folder / 'recipe.yaml'}\ntrainer: {{max_steps: 32}}\n")
    assert value_at(recipe.load(tmp_path / "child.yaml"), f"{RATE}total") == 512


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (COSINE % "total: 1.0", "run.yaml: model.learning_rate.total: ... share ... 1.0"),
        (COSINE % "warmup: 1e400", "run.yaml: model.learning_rate.warmup: ... share ... inf"),
        (COSINE % "warmup: half", "run.yaml: model.learning_rate.warmup: ... 'half'"),
        (WEIGHTING % 1.5, "run.yaml: model.weighting.warmup: ..."),
        (NOISE % ".nan", "run.yaml: model.noise.warmup: ..."),
    ],
)  # fmt: skip
def test_what_is_neither_images_nor_a_share_is_told_by_its_key(tmp_path, word, said):
    loaded(tmp_path, "")
    with pytest.raises(UserError) as error:
        recipe.load(tmp_path / "run.yaml", [word, "trainer.max_steps=8"])
    assert tells(str(error.value).removeprefix(f"{tmp_path}/"), said)


@pytest.mark.parametrize("word", [COSINE % "warmup: -0.1", COSINE % "total: -5", WEIGHTING % -1, NOISE % -1])
def test_a_length_below_0_is_refused_by_its_class(tmp_path, word):
    loaded(tmp_path, "")
    settings = recipe.load(tmp_path / "run.yaml", [word, "trainer.max_steps=8"])
    with pytest.raises(UserError, match=r"model\.\w+: \w+: .*(warmup|total)"):
        recipe.build(
            recipe.fill_facts(settings, {"shape": (2,), "num_classes": 0, "sigma_data": 0.5})["model"], "model"
        )


def test_every_warm_up_may_be_a_share(tmp_path):
    loaded(tmp_path, "")
    settings = recipe.load(tmp_path / "run.yaml", [WEIGHTING % 0.5, NOISE % 0.125, "trainer.max_steps=8"])
    assert (settings["model"]["weighting"]["warmup"], settings["model"]["noise"]["warmup"]) == (64, 16)


def test_notes_are_not_written_by_hand(tmp_path):
    loaded(tmp_path, "")
    file = tmp_path / "run.yaml"
    file.write_text(file.read_text() + "of_run: {a: 3}\n")
    with pytest.raises(UserError) as error:
        recipe.load(file, ["trainer.max_steps=8"])
    assert tells(str(error.value), f"{file}: of_run: ... leave it out")


def test_with_a_trainer_of_ones_own_the_run_is_the_trainers(tmp_path):
    module = DiffusionModule(MLP((2,), width=16, depth=1), learning_rate=Cosine(warmup=0.25))
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    for steps in (4, 8):  # of each run anew
        module.images_seen = 0
        Trainer(max_epochs=-1, max_steps=steps, **options).fit(module, TrainingData(Toy(batch_size=16, n=64), 0))
        assert module.learning_rate == Cosine(16 * steps, warmup=4 * steps)
    with pytest.raises(UserError, match=r"total, warmup .*max_steps"):
        Trainer(max_epochs=1, **options).fit(module, TrainingData(Toy(batch_size=16, n=64), 0))

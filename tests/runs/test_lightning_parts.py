"""Lightning's own parts: each row of the tables in docs/extending.md, tried; no part of the installed Lightning without a row."""

import importlib.util
import inspect
import json
import re
import typing
from pathlib import Path

import pytest
from messages import tells

from lightning_diff.foundation.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
PLACES = {  # of a class, of a name
    "Callbacks": ("callbacks=[{_target_: lightning.pytorch.callbacks.%s}]", None),
    "Loggers": ("trainer.logger={_target_: lightning.pytorch.loggers.%s}", "trainer.logger=%s"),
    "Strategies": ("trainer.strategy={_target_: lightning.pytorch.strategies.%s}", "trainer.strategy=%s"),
    "Precisions and plugins": ("trainer.plugins={_target_: lightning.pytorch.plugins.%s}", "trainer.precision='%s'"),
    "Profilers": ("trainer.profiler={_target_: lightning.pytorch.profilers.%s}", "trainer.profiler=%s"),
}
ARGUMENTS = "Arguments of the Trainer"


class Row(typing.NamedTuple):
    kind: str
    part: str
    verdict: str
    note: str

    @property
    def name(self) -> str:
        return re.split(r"[,:] ", self.part)[0]

    @property
    def override(self) -> str:
        if self.kind == ARGUMENTS:
            return "trainer.{}={}".format(*self.part.split(": ", 1))
        node, name = PLACES[self.kind]
        return (node if self.part[0].isupper() else name) % self.part


def _rows() -> list[Row]:
    section = PAGE.read_text(encoding="utf-8").split("## Lightning's own parts\n")[1].split("\n## ")[0]
    rows = []
    for part in section.split("\n### ")[1:]:
        kind, _, text = part.partition("\n")
        for line in text.splitlines():
            if line.startswith("| `"):
                parts, verdict, note = (cell.strip() for cell in line.strip("|").split(" | "))
                rows += [Row(kind, each, verdict, note.rstrip("|")) for each in re.findall("`([^`]*)`", parts)]
    return rows


ROWS = _rows()


def rows(verdict: str) -> list[object]:
    return [pytest.param(row, id=f"{row.kind[:4]}-{row.part}") for row in ROWS if row.verdict.startswith(verdict)]


def facts(note: str) -> list[str]:
    return re.findall("`([^`]*)`", note)


def product(folder: Path) -> tuple[bytes, int]:
    return (folder / "model.safetensors").read_bytes(), json.loads((folder / "finished.json").read_text())["images"]


def refused(train, row: Row) -> str:
    with pytest.raises(UserError) as error:
        train("refused", row.override, "trainer.devices=1")
    assert not Path("runs").exists() or not any(Path("runs").iterdir())  # nothing of the run's
    return str(error.value)


@pytest.fixture(scope="module")
def plain(train_here, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        return product(train_here("plain", "trainer.max_steps=4"))


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", rows("works"))
def test_what_works_resumes_bit_for_bit_and_counts_the_images(train, plain, row):
    """What only watches changes nothing, in a run and in one that resumes: both are the run without it."""
    steps = () if row.name == "max_steps" else ("trainer.max_steps=4",)
    only_watches = row.kind in ("Callbacks", "Loggers", "Profilers")
    whole = plain if only_watches else product(train("whole", row.override, *steps))
    train("resumed", row.override, "trainer.max_steps=2")
    assert product(train("resumed", row.override, *steps)) == whole
    assert whole[1] == 64


@pytest.mark.parametrize("row", rows("refused"))
def test_what_is_refused_names_what_to_take_before_the_folder_is_claimed(train, row):
    message = refused(train, row)
    for fact in facts(row.note):
        assert tells(message, f"...{fact}"), (fact, message)


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", rows("needs"))
def test_what_needs_a_package_says_so(train, plain, row):
    (package,) = facts(row.verdict)
    if importlib.util.find_spec(package) is None:
        assert package in refused(train, row).lower().replace("-", "_")
    elif package in ("psutil", "tensorboard"):  # the others talk to servers
        test_what_works_resumes_bit_for_bit_and_counts_the_images(train, plain, row)


def installed() -> dict[str, set[str]]:
    """What Lightning has, by the headings of the page."""
    import lightning.pytorch as pl
    from lightning.pytorch import callbacks, loggers, plugins, profilers, strategies

    def words(hint: object) -> set[str]:
        inner = typing.get_args(hint)
        return {str(hint)} if not inner and isinstance(hint, str | int) else {w for each in inner for w in words(each)}

    hints = typing.get_type_hints(pl.Trainer.__init__)
    return {
        "Callbacks": set(callbacks.__all__),
        "Loggers": set(loggers.__all__),
        "Strategies": {*strategies.StrategyRegistry.available_strategies(), *strategies.__all__},
        "Precisions and plugins": {*words(hints["precision"]), *plugins.__all__},
        "Profilers": set(profilers.__all__),
        ARGUMENTS: set(inspect.signature(pl.Trainer).parameters),
    }


def test_every_part_of_the_installed_lightning_has_a_row():
    listed = {(row.kind, row.name) for row in ROWS}
    missing = [(kind, name) for kind, names in installed().items() for name in names if (kind, name) not in listed]
    assert missing == []


MINE = """
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler

class Mine(GradientAccumulationScheduler):
    pass

def made():
    return EarlyStopping("train/loss")
"""


@pytest.mark.parametrize(
    ("target", "way"),
    [("Mine, scheduling: {0: 2}", "trainer.accumulate_grad_batches"), ("made", "lightning_diff.callbacks.Validation")],
)
def test_what_derives_from_a_refused_part_or_makes_one_is_refused_like_it(train, tmp_path, target, way):
    (tmp_path / "parts_of_mine.py").write_text(MINE)
    row = Row("Callbacks", target, "refused", "")
    with pytest.raises(UserError) as error:
        train("mine", f"callbacks=[{{_target_: parts_of_mine.{row.part}}}]")
    assert tells(str(error.value), f"...{way}")
    assert not Path("runs").exists()


def test_a_module_with_a_validation_step_is_refused_before_the_folder_is_claimed(train, tmp_path):
    (tmp_path / "validating.py").write_text(
        "from lightning_diff import DiffusionModule\n"
        "class Validating(DiffusionModule):\n    def validation_step(self, batch, batch_idx): ...\n"
    )
    net = "net: {_target_: lightning_diff.nets.MLP, width: 16, depth: 1}"
    with pytest.raises(UserError) as error:
        train("mine", f"model={{_target_: validating.Validating, {net}}}")
    assert tells(
        str(error.value), "...mine.yaml: model ... Validating.validation_step ... lightning_diff.callbacks.Validation"
    )
    assert not Path("runs").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_run_resumes_from_a_file_of_model_checkpoint_that_is_not_weights_alone(train):
    keep = "callbacks=[{_target_: lightning.pytorch.callbacks.ModelCheckpoint, every_n_train_steps: 2, filename: kept, %s}]"
    train("whole", "trainer.max_steps=2", keep % "dirpath: here")
    train("weights", "trainer.max_steps=2", keep % "dirpath: there, save_weights_only: true")
    resumed = train("resumed", "resume=here/kept.ckpt", "trainer.max_steps=4")
    assert product(resumed) == product(train("plain", "trainer.max_steps=4"))
    with pytest.raises(UserError, match=r"there/kept\.ckpt.*weights alone"):
        train("weights", "resume=there/kept.ckpt", "trainer.max_steps=4")


def test_half_true_precision_is_refused_without_a_recipe(tmp_path):
    from lightning.pytorch import Trainer

    from lightning_diff import DiffusionModule, TrainingData
    from lightning_diff.data import Toy
    from lightning_diff.nets import MLP

    data = Toy(batch_size=4, n=16)
    data.setup()
    trainer = Trainer(
        accelerator="cpu", precision="bf16-true", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(UserError, match="bf16-mixed"):
        trainer.fit(DiffusionModule(MLP(data.shape, width=4, depth=1)), datamodule=TrainingData(data, seed=0))


@pytest.mark.parametrize(
    "words",
    [
        ["model={_target_: lightning_diff.ConsistencyModule, teacher: runs/start}"],
        ["model={_target_: lightning_diff.ConsistencyModule, teacher: runs/start, objective: regression}"],
        [
            "model={_target_: lightning_diff.AlignmentModule, model: runs/start, reward: {_target_: lightning_diff.rewards.Ink}, "
            "plan: {_target_: lightning_diff.rollouts.Plan, prompts: 4, pool: 4, keep: 2, steps: 2, preview_steps: 2}}"
        ],
        [
            "model={_target_: lightning_diff.ScheduleModule, model: runs/start, "
            "learner: {_target_: lightning_diff.schedules.StickBreaking, steps: 4, width: 8}}",
            "data={_target_: lightning_diff.data.Noise, model: runs/start, batch_size: 16}",
        ],
    ],
)
def test_float64_is_refused_where_a_network_beside_would_stay_in_float32(train, words):
    train("start", "trainer.max_steps=1", "trainer.precision=64-true")
    with pytest.raises(UserError) as refused:
        train("next", *words, "trainer.precision=64-true")
    assert tells(str(refused.value), "trainer.precision ... 64-true ... 32-true")


@pytest.mark.filterwarnings("ignore")
def test_a_progress_bar_of_lightnings_takes_the_place_of_ours(train, capfd):
    train("bar", "callbacks=[{_target_: lightning.pytorch.callbacks.TQDMProgressBar}]")
    shown = "".join(capfd.readouterr())
    assert "Epoch" in shown
    assert "img" not in shown


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("callbacks=[{_target_: lightning.pytorch.callbacks.ModelSummary}]", "Trainable params"),
        ("trainer.profiler=simple", "Profiler Report"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_part_says_by_lightnings_log_is_heard(train, caplog, choice, said):
    train("loud", choice)
    assert said in caplog.text

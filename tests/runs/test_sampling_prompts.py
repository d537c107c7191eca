"""A text model is sampled, measured and scheduled for prompts, by its own text encoder; what does not go together is refused."""

import json
from pathlib import Path

import pytest
import torch
from messages import tells
from PIL import Image
from texts import Letters

import lightning_diff as ld
from lightning_diff.artifacts import read_record
from lightning_diff.artifacts.metrics_rows import read
from lightning_diff.cli import main
from lightning_diff.data import Noise
from lightning_diff.foundation import caches
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs.prompts import given

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DATA = {
    "_target_": "lightning_diff.data.Captions",
    "batch_size": 16,
    "source": {"_target_": "lightning_diff.data.Digits", "batch_size": 16},
    "captions": {str(i): [f"a {name}", f"the {name}"] for i, name in enumerate(NAMES)},
    "held_out": {str(i): f"one {name}" for i, name in enumerate(NAMES)},
    "text": {"_target_": "texts.Letters"},
}
OVERRIDES = (f"data={json.dumps(DATA)}", "model.net={_target_: texts.LetterNet}", "model.condition_dropout=0.2")
GRID = 'callbacks=[{_target_: lightning_diff.callbacks.SampleGrid, steps: 1, rows: 2, prompts: [one, "number two"]}]'


@pytest.fixture(scope="module")
def place(train_here, tmp_path_factory):
    """A folder with the run of a text model, `text`, and one of a model of classes, `classes`."""
    where = tmp_path_factory.mktemp("prompts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setenv(caches.OWN, str(where / "cache"))
        train_here("text", *OVERRIDES, GRID)
        train_here("classes")
    return where


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv(caches.OWN, str(place / "cache"))


def test_the_record_names_the_encoder_and_the_prompts():
    record = read_record("runs/text")
    assert record.text == Letters().node()
    assert record.prompts == tuple(f"one {name}" for name in NAMES)
    content = json.loads(Path("runs/text/model.json").read_text())
    assert content["format"] == 3
    assert read_record("runs/classes").text is None


def test_the_picture_has_a_column_for_each_prompt():
    (picture,) = Path("runs/text/samples").glob("0*.png")
    with Image.open(picture) as image:
        width, height = image.size
    assert 2 * 96 <= width < 3 * 96
    assert height > width  # two rows, and the prompts below


def test_a_sample_depends_on_its_prompt_by_the_models_own_encoder():
    model = ld.load("text", device="cpu")
    how = {"steps": 2, "solver": "euler", "seed": 1}
    drawn = model.sample(4, prompts=["a one", "a seven"], **how)
    assert torch.equal(drawn, model.sample(4, prompts=["a one", "a seven"], **how))
    assert not torch.equal(drawn, model.sample(4, prompts="a one", **how))
    assert torch.equal(drawn[[0, 2]], model.sample(4, prompts="a one", **how)[[0, 2]])
    assert torch.equal(model.sample(3, **how), model.sample(3, prompts=["one zero", "one one", "one two"], **how))
    assert not torch.equal(model.sample(1, labels=None, **how), model.sample(1, **how))
    with_letters = model.denoiser(drawn, torch.ones(4), Letters().encode(["a one"] * 4))
    assert not torch.equal(with_letters, model.denoiser(drawn, torch.ones(4)))
    assert model.sample(2, prompts="a one", guidance=2.0, **how).isfinite().all()


def last_labels():
    """The protocol's, of the distance that was measured last."""
    return [row["labels"] for row in read(Path("runs/text/metrics.csv")) if row["metric"] == "frechet_pixels"][-1]


def test_commands_take_files_of_prompts(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a one", "label": 1}\n{"prompt": "a seven", "label": "7"}\n')
    out = tmp_path / "s.npz"
    assert main(["sample", "text", "-n", "4", "--steps", "1", "--prompts", str(file), "--out", str(out)]) == 0
    assert main(["sample", "text", "-n", "2", "--steps", "1", "--prompt", "a one", "--prompt", "x"]) == 0
    assert main(["evaluate", "text", "-n", "80", "--steps", "1", "--prompts", str(file), "--feature", "pixels"]) == 0
    first = last_labels()
    assert main(["evaluate", "text", "-n", "80", "--steps", "1", "--feature", "pixels"]) == 0
    assert last_labels() != first  # another protocol
    words = ["--steps", "2", "--trajectories", "4", "--solver", "euler", "--method", "art"]
    assert main(["schedule", "text", *words, "--prompts", str(file)]) == 0
    told = json.loads(Path("runs/text/schedule.json").read_text())["protocol"]["prompts"]
    assert main(["schedule", "text", *words]) == 0
    assert json.loads(Path("runs/text/schedule.json").read_text())["protocol"]["prompts"] != told


def test_noise_for_a_text_model_has_its_prompts_for_classes():
    assert Noise(4, model="runs/text").class_names == read_record("runs/text").prompts
    data = Noise(4, model="runs/text", prompts=["a one", "a seven"])
    assert data.num_classes == len(data.prompts) == 2
    assert data.fingerprint != Noise(4, model="runs/text", prompts=["a one", "an eight"]).fingerprint
    with pytest.raises(UserError, match=r"data\.prompts.*no text"):
        _ = Noise(4, model="runs/classes", prompts=["a one"]).prompts


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["sample", "text", "--labels", "3"], "--labels ... runs/text ... --prompt ..."),
        (["sample", "text", "--labels", "none", "--prompt", "x"], "--labels ... none ..."),
        (["sample", "classes", "--prompt", "x"], "--prompts ... runs/classes ... --labels ..."),
        (["sample", "text", "--prompt", " "], "--prompt ..."),
        (["sample", "text", "--prompts", "empty.txt"], "empty.txt ... no prompts ..."),
        (["sample", "text", "--labels", "none", "--guidance", "2"], "--guidance ... --prompts ..."),
        (["evaluate", "classes", "--prompts", "one.txt"], "--prompts ... runs/classes ..."),
        (["evaluate", "--images", ".", "--prompts", "one.txt"], "--prompts ... RUN ..."),
        (["schedule", "classes", "--prompts", "one.txt"], "--prompts ... runs/classes ..."),
    ],
)
def test_what_does_not_go_together_is_a_line(capsys, words, facts):
    Path("empty.txt").write_text("\n")
    Path("one.txt").write_text("one\n")
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert tells(said.removeprefix("error: "), facts)


def changed(place, name, **fields):
    """A copy of the model with another record."""
    folder = place / "runs" / name
    folder.mkdir(exist_ok=True)
    for file in ("model.json", "model.safetensors"):
        (folder / file).write_bytes((place / "runs/text" / file).read_bytes())
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | fields))
    return str(folder)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (None, "no text encoder"),
        ({"_target_": "lightning_diff.nets.MLP"}, "text._target_ ... MLP"),
        ({"_target_": "texts.Letters", "scale": {"_target_": "os.getpid"}}, "text.scale._target_ ... os.getpid"),
        ({"_target_": "lightning_diff.text.RandomEncoders", "vocabulary": ["a"], "width": 3}, "text ... width"),
        ({"_target_": "lightning_diff.text.PipelineText", "folder": "/none"}, "/none: no such folder"),
    ],
)
def test_a_record_without_a_fit_encoder_is_told(place, text, facts):
    model = ld.load(changed(place, "other", text=text), device="cpu")
    with pytest.raises(UserError) as error:
        model.sample(1, prompts="a one", steps=1)
    assert tells(str(error.value), f"... {facts} ...")


def test_embeddings_of_another_width_are_told(place):
    net = json.loads((place / "runs/text/model.json").read_text())["net"]
    folder = changed(place, "wider", net=net | {"condition_shapes": {"letters": [2, 14], "length": [1]}})
    with pytest.raises(UserError, match=r"letters \(2, 13\).*\(2, 14\)"):
        ld.runs.prompts.encoded_prompts(Path(folder), read_record(folder), given(None, ["a one"]))


def test_callbacks_refuse_prompts_of_a_model_of_classes(train_here):
    with pytest.raises(UserError, match=r"SampleGrid: prompts"):
        train_here("grid", "data={_target_: lightning_diff.data.Digits, batch_size: 16}", GRID)

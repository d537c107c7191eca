"""doctor names what is there and what is broken, and says what resuming then does."""

import shutil
from pathlib import Path

import pytest
from messages import tells

from lightning_diff.cli import main
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs import doctor, lock

SAVE = "callbacks=[{_target_: lightning_diff.callbacks.Checkpoint, every_images: 32}]"


@pytest.fixture
def folder(train):
    """A finished run."""
    return train("run", SAVE)


def findings(folder: Path) -> dict[str, tuple[str, str]]:
    return {what: (kind, text) for kind, what, text in doctor.examine(folder)}


def test_a_finished_run(folder):
    found = findings(folder)
    assert {kind for kind, _ in found.values()} == {"ok"}
    assert found["run"][1].startswith("finished at step 8 of 8, 128 images")
    assert found["step_00000008.ckpt"][1].startswith("step 8, 128 images, ")
    assert "256 examples of shape (2,)" in found["data"][1]
    assert doctor.as_text(doctor.examine(folder)).startswith("  run                 finished at step 8 of 8")


def test_one_that_is_not_finished(folder):
    (folder / "finished.json").unlink()
    kind, text = findings(folder)["run"]
    assert (kind, "not finished" in text) == ("note", True)
    for path in (folder / "checkpoints").glob("step_00000008.*"):
        path.unlink()
    kind, text = findings(folder)["run"]
    assert kind == "ok"
    assert "step 6 of 8, 96 images" in text
    assert "step_00000006.ckpt" in text
    with lock.locked(folder):
        assert "is being trained" in findings(folder)["run"][1]
    shutil.rmtree(folder / "checkpoints")
    assert findings(folder)["run"][0] == "broken"  # the model would be overwritten
    (folder / "model.safetensors").unlink()
    assert findings(folder)["run"][0] == "note"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("checkpoints/step_00000008.ckpt", "step_00000008.ckpt"),
        ("checkpoints/step_00000008.json", "step_00000008.json"),
        ("recipe.yaml", "recipe.yaml"),
        ("model.safetensors", "lightning-diff export"),
        ("model.json", "lightning-diff export"),
        ("metrics.csv", "metrics.csv"),
    ],
)
def test_what_is_broken_is_named(folder, name, text, capsys):
    (folder / name).write_bytes(b"hello")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["doctor", str(folder)]) == 1
    shown = capsys.readouterr().out
    broken = [line for line in shown.splitlines() if line.startswith("! ")]
    assert len(broken) == 1
    assert text in broken[0]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("left", [None, "a: ["])
def test_a_lost_recipe_is_written_again_by_resume(folder, left, capsys):
    source = folder / "recipe.yaml"
    whole = source.read_text()
    source.unlink() if left is None else source.write_text(left)
    kind, text = findings(folder)["recipe.yaml"]
    assert (kind, "lightning-diff resume" in text) == ("broken", True)
    assert main(["resume", "run"]) == 0
    assert "recipe.yaml: was lost" in capsys.readouterr().out
    assert source.read_text() == whole
    assert findings(folder)["recipe.yaml"][0] == "ok"


def test_where_it_stands_goes_by_the_runs_recipe(folder):
    """Not by that of a checkpoint from before the run was made longer."""
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("max_steps: 8", "max_steps: 12"))
    assert findings(folder)["run"][1].startswith("stopped at step 8 of 12")


def test_a_disk_without_room_is_said_with_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    kind, text = findings(folder)["disk"]
    assert (kind, "1 kB free" in text, "make room" in text) == ("broken", True, True)


def test_a_model_of_a_newer_version_is_told_as_such(folder):
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"format": 1', '"format": 99'))
    kind, text = findings(folder)["model.json"]
    assert (kind, "99" in text, "export" in text) == ("broken", True, True)


def test_a_file_that_is_no_models_is_refused_by_its_name(folder, capsys):
    assert main(["doctor", "run.yaml"]) == 2
    assert tells(capsys.readouterr().err.splitlines()[-1], "error: run.yaml: ... file ...")


def test_without_any_usable_checkpoint(folder):
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"")
    assert findings(folder)["run"][0] == "broken"


def test_what_is_left_over_is_named(folder):
    (folder / ".metrics.1234.tmp.csv").write_text("")
    (folder / "checkpoints" / "step_00000009.ckpt.aside").write_text("")
    (folder / "checkpoints" / "step_00000009.json").write_text("{}")
    kinds = {what: kind for kind, what, _ in doctor.examine(folder) if kind == "note"}
    assert kinds.keys() == {".metrics.1234.tmp.csv", "step_00000009.ckpt.aside", "step_00000009.json"}


def test_how_far_it_is_with_large_checkpoints_is_shown(folder, monkeypatch):
    stages = []

    def each(items, name, total, unit, *, shown):
        stages.append((name, total, len(list(items)), shown))
        return iter(items)

    monkeypatch.setattr(doctor, "each", each)
    for limit, shown in ((10**9, False), (1, True)):
        monkeypatch.setattr(doctor, "BAR_FROM", limit)
        assert {kind for kind, _ in findings(folder).values()} == {"ok"}
        number = len(list((folder / "checkpoints").glob("*.ckpt")))
        assert stages.pop() == ("checking checksums", number, number, shown)


def test_no_run_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="run folder"):
        doctor.examine(tmp_path)

import os

import pytest

from lightning_diff.artifacts import checkpoints
from lightning_diff.foundation.atomic import replacing


def write(folder, step, content=b"state"):
    path = checkpoints.checkpoint_path(folder, step)
    checkpoints.write(path, lambda temporary: temporary.write_bytes(content), step=step, images=step * 10)
    return path


def test_the_newest_whole_one_is_found_and_old_ones_are_pruned(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert checkpoints.newest(tmp_path).name == "step_00000003.ckpt"
    checkpoints.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00000002.ckpt", "step_00000002.json", "step_00000003.ckpt", "step_00000003.json",
    ]  # fmt: skip


def test_a_run_killed_between_record_and_checkpoint_has_no_damaged_one_and_later_no_record_too_many(
    tmp_path, monkeypatch
):
    write(tmp_path, 1)
    replace = os.replace

    def killed_before_the_second(source, target):
        if target.suffix == ".ckpt":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", killed_before_the_second)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in sorted(tmp_path.glob("step_00000002*"))] == ["step_00000002.json"]
    assert checkpoints.newest(tmp_path).name == "step_00000001.ckpt"  # and warns of nothing
    write(tmp_path, 3)
    checkpoints.prune(tmp_path, keep=2)
    assert {path.stem for path in tmp_path.iterdir()} == {"step_00000001", "step_00000003"}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def forget(path):
    path.with_suffix(".json").unlink()


def garble(path):
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(truncate, "bytes"), (flip, "checksum"), (forget, "cannot be read"), (garble, "cannot be read")],
)
def test_a_damaged_one_is_named_and_the_one_before_it_used(tmp_path, damage, said):
    write(tmp_path, 1)
    damage(write(tmp_path, 2))
    with pytest.warns(UserWarning, match=f"step_00000002.ckpt.*{said}"):
        assert checkpoints.newest(tmp_path).name == "step_00000001.ckpt"


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = write(tmp_path, 1, b"good")

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.write(path, fail, step=1, images=10)
    assert path.read_bytes() == b"good"
    assert checkpoints.newest(tmp_path) == path
    assert len(list(tmp_path.iterdir())) == 2


def test_replacing_makes_the_folder_and_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "new" / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("x")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_checkpoints_ahead_of_where_a_run_goes_back_to_are_kept_but_never_taken_for_its_newest(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    ahead = checkpoints.set_aside_after(tmp_path, 1)
    assert [path.name for path in ahead] == ["step_00000002.ckpt", "step_00000003.ckpt"]
    write(tmp_path, 2, b"new")
    checkpoints.prune(tmp_path, keep=1)
    assert checkpoints.newest(tmp_path).read_bytes() == b"new"
    assert (tmp_path / "step_00000002.ckpt.aside").read_bytes() == b"state"
    assert (tmp_path / "step_00000003.json.aside").exists()


@pytest.mark.parametrize(("given", "form"), [({}, "0.1"), ({"form": "edm"}, "edm")])
def test_augmentations_of_earlier_formats_keep_their_form(given, form):
    stored = {"images_seen": 0, "global_step": 0, "callbacks": {}, "format": 2}
    stored["recipe"] = {"data": {"_target_": "lightning_diff.data.Images", "augment": {"probability": 0.1} | given}}
    assert checkpoints.migrate(stored, "some.ckpt")["recipe"]["data"]["augment"]["form"] == form

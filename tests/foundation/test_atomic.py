"""Every file of a run folder is whole or not there, and others may read it as they may any new file."""

import contextlib
import os

import pytest
import torch
from safetensors.torch import save_file

from lightning_diff.foundation.atomic import replacing, replacing_folder, sweep


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_get_the_permissions_of_new_files_whatever_writes_them(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").touch()
        with replacing(tmp_path / "text.json") as temporary:
            temporary.write_text("{}")
        with replacing(tmp_path / "weights.safetensors") as temporary:
            save_file({"a": torch.zeros(2)}, temporary)
            assert temporary.stat().st_mode & 0o777 == 0o600  # else this test shows nothing
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["text.json"] == modes["weights.safetensors"] == modes["plain"]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize("standing", ["nothing", "a folder", "a file"])
def test_a_folder_replaces_whatever_stands_there_or_leaves_it(tmp_path, standing):
    path = tmp_path / "step.ckpt"
    if standing == "a folder":
        path.mkdir()
        (path / "old").write_text("old")
    elif standing == "a file":
        path.write_text("old")
    before = contents(tmp_path)
    with contextlib.suppress(RuntimeError), replacing_folder(path) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert contents(tmp_path) == before
    with replacing_folder(path) as temporary:
        assert temporary.parent == tmp_path
        (temporary / "new").write_text("new")
    assert contents(tmp_path) == {"step.ckpt/new": "new"}


def contents(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path):
    kept = {"metrics.csv", "model.tmp", ".hidden", "checkpoints/step_00000001.ckpt", "checkpoints/.deeper"}
    left = {".recipe.812.tmp.yaml", ".LOCK.7.tmp", ".tmpAb3xYz", "checkpoints/.step_00000001.12.tmp.ckpt"}
    left |= {"checkpoints/.step_00000002.12.tmp.ckpt/__0_0.distcp", "checkpoints/.step_00000003.ckpt.12.tmp/meta.pt"}
    for name in kept | left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == kept

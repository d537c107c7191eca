import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_diff.data import HuggingFace
from lightning_diff.foundation.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def encoded(i):
    out = BytesIO()
    Image.fromarray(PIXELS[i]).save(out, "PNG")
    return out.getvalue()


def parquet(path, rows, labels=None, image="img", plain=False):
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    cells = [encoded(i) if plain else {"bytes": encoded(i), "path": None} for i in rows]
    columns = {image: cells} | ({} if labels is None else {"label": labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(pyarrow.table(columns), path)
    return path


def channels_first(rows):
    return torch.from_numpy(PIXELS[rows]).permute(0, 3, 1, 2)


def test_splits_are_the_files_named_after_them(tmp_path):
    parquet(tmp_path / "plain/train-00000-of-00002.parquet", [0, 1], [2, 0])
    parquet(tmp_path / "plain/train-00001-of-00002.parquet", [2, 3], [1, 1])
    parquet(tmp_path / "plain/test-00000-of-00001.parquet", [4], [0])
    data = HuggingFace(2, path=tmp_path, image_column="img", test_split="test")
    assert torch.equal(data.train.pixels, channels_first([0, 1, 2, 3]))
    assert data.train.labels.tolist() == [2, 0, 1, 1]
    assert torch.equal(data.test.pixels, channels_first([4]))
    assert (data.shape, data.num_classes) == ((3, 4, 5), 3)


def test_one_file_of_plain_bytes_without_labels(tmp_path):
    file = parquet(tmp_path / "anything.parquet", [3, 1], image="image", plain=True)
    data = HuggingFace(2, path=str(file), label_column=None)
    assert torch.equal(data.train.pixels, channels_first([3, 1]))
    assert (data.num_classes, data.test) == (0, None)


def test_what_is_wrong_is_said(tmp_path):
    file = parquet(tmp_path / "a/train.parquet", [0, 1], [0, -1])
    for options, message in [
        ({"path": tmp_path / "none"}, "no such file, or no folder with .parquet files"),
        ({"path": tmp_path}, "no column 'image'; its columns are img, label"),
        (
            {"path": tmp_path, "split": "validation"},
            "no .parquet file of split 'validation'; there are a/train.parquet",
        ),
        ({"path": file, "image_column": "img"}, r"'label' has labels that are neither .*: train row 1 \(-1\)"),
        (
            {"path": file, "image_column": "label", "label_column": None},
            "'label' holds no encoded image in train row 0, train row 1",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            HuggingFace(2, **options).setup()
    file.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"train\.parquet"):
        HuggingFace(2, path=tmp_path).setup()


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pyarrow"):
        HuggingFace(2, path=tmp_path).setup()


def test_ids_are_numbered_as_in_training_on_demand(tmp_path):
    parquet(tmp_path / "train.parquet", [0, 1, 2], [10**9, 7, 10**9], image="image")
    parquet(tmp_path / "test.parquet", [3], [10**9], image="image")
    with pytest.raises(UserError, match=r"1,000,000,000.* ids.*relabel"):
        HuggingFace(2, path=tmp_path).setup()
    data = HuggingFace(2, path=tmp_path, test_split="test", relabel=True)
    assert (data.train.labels.tolist(), data.test.labels.tolist(), data.num_classes) == ([1, 0, 1], [1], 2)
    assert "2 classes by column label" in data.summary()


def test_cells_with_paths_are_read_from_beside_the_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/0.png").write_bytes(encoded(0))
    (tmp_path / "1.png").write_bytes(encoded(1))
    paths = ["cats/0.png", str(tmp_path / "1.png")]
    cells = [{"bytes": None, "path": path} for path in paths] + [{"bytes": encoded(2), "path": "unused.png"}]
    writer.write_table(pyarrow.table({"image": cells}), tmp_path / "train.parquet")
    data = HuggingFace(2, path=tmp_path, label_column=None)
    assert torch.equal(data.train.pixels, channels_first([0, 1, 2]))
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"train\.parquet: column 'image' holds paths.*1\.png"):
        HuggingFace(2, path=tmp_path, label_column=None).setup()

"""Captions that stand in the data: beside the images of a tar, in a column, in a key of items, in a folder's metadata.jsonl."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image
from texts import Letters

from lightning_diff.data import Captions, Data, Datasets, Images, ImageSet, LitData, MapDataset, Stream, WebDataset
from lightning_diff.foundation.errors import UserError

TEXTS = ["a", "bb", "", "dddd", "eeeee", "ffffff"]
LENGTHS = [len(text) for text in TEXTS]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))


def png(i):
    file = io.BytesIO()
    Image.new("L", (4, 4), 40 * i).save(file, "PNG")
    return file.getvalue()


def tar(path, texts, ending):
    """A shard with a .txt beside each image, or a .json with a caption under "text"; None leaves it out."""
    with tarfile.open(path, "w") as shard:
        for i, text in enumerate(texts):
            content = text.encode() if ending == ".txt" and text is not None else json.dumps({"text": text}).encode()
            members = [(".png", png(i)), *([(ending, content)] if text is not None else [])]
            for suffix, part in members:
                info = tarfile.TarInfo(f"{i:03}{suffix}")
                info.size = len(part)
                shard.addfile(info, io.BytesIO(part))
    return path


def of_tar(folder, texts, ending=".txt"):
    return WebDataset(2, path=tar(folder / "shard.tar", texts, ending)), "txt" if ending == ".txt" else "text"


def of_json(folder, texts):
    return of_tar(folder, texts, ".json")


def of_datasets(folder, texts):
    datasets = pytest.importorskip("datasets")
    columns = {"image": [{"bytes": png(i), "path": None} for i in range(len(texts))], "caption": texts}
    datasets.Dataset.from_dict(columns).save_to_disk(folder / "saved")
    return Datasets(2, path=folder / "saved"), "caption"


def of_items(folder, texts):
    items = [{"image": png(i), "caption": text} for i, text in enumerate(texts)]
    return MapDataset(2, dataset=items), "caption"


def of_folder(folder, texts):
    """As `datasets` writes a folder of images."""
    (folder / "images/cats").mkdir(parents=True)
    with (folder / "images/metadata.jsonl").open("w") as file:
        for i, text in enumerate(texts):
            (folder / f"images/cats/{i}.png").write_bytes(png(i))
            if text is not None:
                file.write(json.dumps({"file_name": f"cats/{i}.png", "text": text}) + "\n")
    return Images(2, path=folder / "images"), "metadata.jsonl"


def captioned(source, captions, **given):
    return Captions(2, source=source, captions=captions, text=Letters(), **given)


@pytest.mark.parametrize("kind", [of_tar, of_json, of_datasets, of_items, of_folder])
def test_each_image_has_its_own_caption_and_an_empty_one_is_the_empty_prompt(kind, tmp_path):
    texts = TEXTS if kind is not of_folder else [text or "ccc" for text in TEXTS]
    data = captioned(*kind(tmp_path, texts))
    given = data.train.take(np.arange(6))[1]
    assert given.tensors["length"].flatten().tolist() == [len(text) for text in texts]
    shown = Stream(data, 0)._indices(np.arange(6))
    batch = Stream(data, 0).__getitems__(range(6))["condition.length"].flatten().tolist()
    assert batch == [len(texts[i]) for i in shown]
    if "" in texts:
        assert torch.equal(given[[2]].tensors["letters"], data.null_condition.tensors["letters"])
        assert "1 images with an empty one" in data.summary()


def test_litdata(tmp_path):
    pytest.importorskip("litdata")

    class Chunks(LitData):
        def opened(self, path, *, is_test):
            return [{"image": png(i), "caption": text} for i, text in enumerate(TEXTS)], [6]

    given = captioned(Chunks(2, path=tmp_path), "caption").train.take(np.arange(6))[1]
    assert given.tensors["length"].flatten().tolist() == LENGTHS


def test_several_wordings_in_a_column_take_turns_by_position(tmp_path):
    data = captioned(*of_datasets(tmp_path, [["a", "bb", "ccc"]] * 4))
    shown = Stream(data, 0).__getitems__(range(300))["condition.length"].flatten()
    assert {1, 2, 3} == set(shown.tolist())
    assert torch.equal(shown[100:200], Stream(data, 0).__getitems__(range(100, 200))["condition.length"].flatten())


def test_what_is_held_out_keeps_its_captions(tmp_path):
    source, key = of_items(tmp_path, ["x" * (i + 1) for i in range(6)])
    source.hold_out = 2
    lengths = captioned(source, key).train.take(np.arange(4))[1].tensors["length"].flatten() - 1
    assert lengths.tolist() == source.train.places.tolist()


def test_on_the_fly_a_batch_is_that_of_the_cache_and_no_text_is_encoded_before_it_is_needed(tmp_path):
    source, key = of_tar(tmp_path, TEXTS)
    cached, flying = captioned(source, key), captioned(source, key, encode="fly", prompts=["a", "zz"])
    flying.setup()
    before = flying.text.calls
    assert before <= 2  # the null condition
    one, other = (Stream(data, 3).__getitems__(range(6)) for data in (cached, flying))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert flying.text.calls - before == 6
    assert flying.fingerprint == cached.fingerprint
    assert flying.prompts.condition.tensors["length"].flatten().tolist() == [1, 2]


class Bare(Data):
    def load(self):
        return ImageSet(torch.arange(96, dtype=torch.uint8).reshape(6, 1, 4, 4), name="nameless"), None


@pytest.mark.parametrize("kind", [of_tar, of_json, of_datasets, of_items, of_folder])
def test_an_image_without_a_caption_is_named(kind, tmp_path):
    data = captioned(*kind(tmp_path, ["a", "b", None, "d"]))
    with pytest.raises(UserError) as error:
        _ = data.train
    named = {of_tar: "002", of_json: "002", of_folder: "2.png"}.get(kind, "item 2")
    assert named in str(error.value)
    assert "caption" in str(error.value)


@pytest.mark.parametrize(
    ("texts", "key", "facts"),
    [
        (["a", 7], "caption", "MapDataset: item 1 ... 7 ... caption ..."),
        (["a", ["b", 7]], "caption", "... item 1 ... 'b', 7 ..."),
        (["a", []], "caption", "... item 1: has no caption ..."),
        (["a", "b"], "captions", "... item 0: has no caption ('captions') ..."),
    ],
)
def test_what_is_no_caption_is_refused(tmp_path, texts, key, facts):
    with pytest.raises(UserError) as error:
        _ = captioned(of_items(tmp_path, texts)[0], key).train
    assert tells(str(error.value), facts.replace("MapDataset", "list"))


def test_a_missing_column_names_those_that_there_are(tmp_path):
    with pytest.raises(UserError) as error:
        _ = captioned(of_datasets(tmp_path, TEXTS)[0], "text").train
    assert tells(str(error.value), "... 'text' ... image, caption")


def test_a_text_in_a_tar_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as shard:
        for name, part in (("a.png", png(0)), ("a.txt", b"\xff\xfe\xff"), ("b.png", png(1)), ("b.txt", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(part)
            shard.addfile(info, io.BytesIO(part))
    with pytest.raises(UserError) as error:
        _ = captioned(WebDataset(2, path=path), "txt").train
    assert tells(str(error.value), "...shard.tar: a.txt ... UTF-8 ...")


def test_images_of_which_nothing_else_is_known_have_no_column():
    with pytest.raises(UserError) as error:
        _ = captioned(Bare(2), "caption").train
    assert tells(str(error.value), "captions: 'caption' ... nameless ... .jsonl ...")

"""Captioned images carry the embedding of one of their wordings, chosen by seed and position; labels stay."""

import json

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image
from texts import Letters
from tiny_autoencoder import Halves

from lightning_diff.autoencoders import Pair
from lightning_diff.data import Captions, Data, Images, ImageSet, Latents, Stream
from lightning_diff.foundation.errors import UserError

BY_CLASS = {"cat": ["a cat", "one cat"], 1: "a dog"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))


class Six(Data):
    def load(self):
        pixels = torch.arange(6 * 16, dtype=torch.uint8).reshape(6, 1, 4, 4)
        labels = torch.tensor([0, 1, 0, 1, 0, 1])
        return ImageSet(pixels, labels, class_names=("cat", "dog")), ImageSet(
            pixels, labels, class_names=("cat", "dog")
        )


class Bare(Data):
    def load(self):
        return ImageSet(torch.arange(96, dtype=torch.uint8).reshape(6, 1, 4, 4)), None


def captioned(captions=BY_CLASS, source=None, **given):
    return Captions(4, source=source or Six(4), captions=captions, text=Letters(), **given)


def texts_at(data, positions, seed=0):
    """Which text the stream shows at each position, by its length."""
    return Stream(data, seed).__getitems__(positions)["condition.length"].flatten().tolist()


def test_the_stream_carries_embeddings_in_place_of_labels():
    data = captioned()
    data.setup()
    batch = Stream(data, 0).__getitems__(range(4))
    assert batch["condition.letters"].shape == (4, 2, 13)
    assert "label" not in batch
    assert data.condition_shapes == {"letters": (2, 13), "length": (1,)}
    assert data.num_classes == 2
    assert data.train.label(np.arange(2)).tolist() == [0, 1]
    assert torch.equal(data.null_condition.tensors["length"], torch.zeros(1, 1))
    assert data.test.label(np.arange(2)).tolist() == [0, 1]


def test_wordings_are_chosen_by_seed_and_position_alone():
    data, positions = captioned(), list(range(60))
    whole = texts_at(data, positions)
    assert {5, 7} <= set(whole)  # "a cat", "a dog" and "one cat"
    assert whole == texts_at(captioned(), positions)
    assert whole[7:19] == texts_at(data, positions[7:19])
    assert whole != texts_at(data, positions, seed=1)


def test_wordings_are_equally_often():
    lengths = np.array(texts_at(captioned({"cat": ["a", "bb", "ccc"], "dog": "dddd"}), range(3000)))
    counts = [(lengths == each).sum() for each in (1, 2, 3)]
    assert max(abs(count - 500) for count in counts) < 4 * 500**0.5


def test_templates_are_filled_with_the_names():
    assert captioned(["a {class}", "one {class}"]).prompts.texts == ("a cat", "a dog", "one cat", "one dog")


def test_prompts_are_the_held_out_wordings_with_their_classes():
    data = captioned(held_out={"cat": "some cat", "dog": "some dog"})
    assert data.prompts.texts == ("some cat", "some dog")
    assert data.prompts.labels == (0, 1)
    assert torch.equal(data.prompts.condition.tensors["length"], torch.tensor([[8], [8]]))


def test_prompts_of_a_file_have_its_labels_and_known_wordings_theirs(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a beast", "label": "dog"}\n')
    assert captioned(prompts=str(tmp_path / "p.jsonl")).prompts.labels == (1,)
    assert captioned(prompts=["a dog", "one cat"]).prompts.labels == (1, 0)
    assert captioned(prompts=["a dog", "a beast"]).prompts.labels is None


def test_captions_by_file_number_and_class(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps({"index": i, "text": "x" * (i + 1)}) + "\n" for i in range(6)))
    lengths, order = texts_at(captioned(str(file), Bare(4)), range(6)), Stream(Bare(4), 0)._indices(np.arange(6))
    assert lengths == (order + 1).tolist()
    file.write_text('{"label": "cat", "text": ["a cat", "one cat"]}\n{"label": 1, "caption": "a dog"}\n')
    assert captioned(str(file)).fingerprint == captioned().fingerprint


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        Image.new("L", (4, 4), 40 * i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"{'x' * (i + 1)}\n\n")
    return tmp_path


def test_captions_beside_the_images_or_by_their_names(folder):
    data = captioned("txt", Images(4, path=folder))
    assert data.train.take(np.arange(3))[1].tensors["length"].flatten().tolist() == [1, 2, 3]
    names = folder / "c.jsonl"
    names.write_text("".join(json.dumps({"file_name": f"{i}.png", "text": "x" * (i + 1)}) + "\n" for i in range(3)))
    assert captioned(str(names), Images(4, path=folder)).fingerprint == data.fingerprint


@pytest.mark.parametrize("encode", ["cache", "fly"])
def test_latents_of_images_have_the_captions_of_their_files(tmp_path, encode):
    """In a .txt beside each, and in the metadata.jsonl of their folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.new("L", (4, 4), 20 * i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("x" * (i + 1))
    lines = [json.dumps({"file_name": f"{i}.png", "text": "x" * (i + 5)}) for i in range(4)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    for captions, first in (("txt", 1), ("metadata.jsonl", 5)):
        latents = Latents(4, source=Images(4, path=folder), autoencoder=Pair(Halves()), encode=encode)
        data = captioned(captions, latents)
        data.setup()
        assert sorted(texts_at(data, range(4))) == [first, first + 1, first + 2, first + 3]


def test_the_fingerprint_knows_images_captions_and_encoder():
    other = captioned()
    other.text = Letters(2.0)
    different = [
        captioned(),
        captioned({"cat": ["a cat", "one tom"], 1: "a dog"}),
        captioned(source=Six(4, flip=True)),
        other,
    ]
    found = [each.fingerprint for each in different]
    assert found[0] == found[2]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("captions", "given", "facts"),
    [
        ({"cat": "a cat"}, {}, "Captions: captions ... dog ..."),
        ({"cat": "a cat", "dgo": "a dog"}, {}, "Captions: captions ... dgo ... dog ..."),
        ({"cat": "a cat", 7: "a dog"}, {}, "Captions: captions ... 7 ..."),
        ({"cat": [], "dog": "a dog"}, {}, "Captions: captions.cat ..."),
        (["a class"], {}, "Captions: captions ... {class} ..."),
        (BY_CLASS, {"source": Bare(4)}, "Captions: captions ... labels ..."),
        (BY_CLASS, {"held_out": {"cat": "a cat", "dog": "x"}}, "Captions: held_out ... a cat ..."),
        (BY_CLASS, {"prompts": []}, "Captions: prompts ..."),
        ("none.jsonl", {}, "none.jsonl: no such file ..."),
        ("c.csv", {}, "c.csv ... .jsonl ..."),
        ("txt", {}, "captions: 'txt' ... .jsonl ..."),
    ],
)
def test_what_does_not_fit_is_refused(captions, given, facts):
    data = captioned(captions, **given)
    with pytest.raises(UserError) as error:
        _ = data.train, data.prompts
    assert tells(str(error.value), facts)


@pytest.mark.parametrize(
    ("lines", "facts"),
    [
        ('{"index": 0, "text": "x"}', "5 of 6 images have no caption, number 1 ..."),
        ('{"text": "x"}', "line 1: ... index ..."),
        ('{"index": 0, "text": 3}', "line 1: ... 3"),
        ('{"file_name": "a.png", "text": "x"}', "... a.png ..."),
        ("", "6 of 6 ..."),
    ],
)
def test_bad_files_of_captions_are_refused(tmp_path, lines, facts):
    (tmp_path / "c.jsonl").write_text(lines)
    with pytest.raises(UserError) as error:
        captioned(str(tmp_path / "c.jsonl"), Bare(4)).setup()
    assert tells(str(error.value), f"{tmp_path}/c.jsonl: {facts}")


def test_a_missing_text_beside_an_image_is_named(folder):
    (folder / "1.txt").unlink()
    with pytest.raises(UserError, match=r"1\.txt"):
        captioned("txt", Images(4, path=folder)).setup()

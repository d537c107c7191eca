"""What classes are called, wherever the images come from, and that a name means the same class in every place."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image

from lightning_diff.artifacts import pictures, read_record, save_denoiser
from lightning_diff.cli import main
from lightning_diff.data import HuggingFace, Images, ImageSet, MapDataset
from lightning_diff.data.class_names import complete, of_dataset, of_label_file
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import UNet
from lightning_diff.runs.labels import classes_of

NAMES = ("cat", "dog", "red fox")


def picture(value: int = 0) -> Image.Image:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + np.uint8(value)
    return Image.fromarray(pixels)


def folder(root: Path, classes=NAMES, n: int = 2) -> Path:
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for j in range(n):
            picture(10 * i + j).save(root / name / f"{j}.png")
    return root


def test_folders_name_the_classes_in_order_of_label(tmp_path):
    data = Images(2, path=folder(tmp_path / "a"))
    assert data.class_names == NAMES
    assert data.facts()["class_names"] == NAMES
    assert "3 classes by its folders (cat, dog, red fox)" in data.summary()
    assert Images(2, path=tmp_path / "a", conditional=False).class_names == ()
    assert Images(2, path=tmp_path / "a", classes=5).class_names == (*NAMES, "3", "4")


@pytest.mark.parametrize(
    "names",
    [
        {"class_names": list(NAMES)},
        {"classes": list(NAMES)},
        {"id2label": {"0": "cat", "1": "dog", "2": "red fox"}},
        {"class_to_idx": {"red fox": 2, "cat": 0, "dog": 1}},
    ],
)
def test_a_label_file_may_name_them(tmp_path, names):
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    labels = [[f"{i}.png", 2 - i] for i in range(3)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels} | names))
    data = Images(2, path=tmp_path)
    assert data.class_names == NAMES
    assert "3 classes by dataset.json (cat, dog, red fox)" in data.summary()


def test_relabelled_classes_keep_their_names(tmp_path):
    for i in range(2):
        picture(i).save(tmp_path / f"{i}.png")
    content = {"labels": [["0.png", 1], ["1.png", 3]], "class_names": ["a", "b", "c", "d"]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert Images(2, path=tmp_path, relabel=True).class_names == ("b", "d")


def named(root: Path, labels, **beside) -> Path:
    """A folder with a picture and a label for each of these, under the key "labels" as pairs."""
    root.mkdir(parents=True)
    for i in range(len(labels)):
        picture(i).save(root / f"{i}.png")
    pairs = [[f"{i}.png", label] for i, label in enumerate(labels)]
    (root / "dataset.json").write_text(json.dumps({"labels": pairs} | beside))
    return root


def test_names_in_a_label_file_are_classes_in_alphabetical_order(tmp_path):
    data = Images(2, path=named(tmp_path / "a", ["red fox", "cat", "dog", "cat"]))
    assert (data.train.labels.tolist(), data.class_names) == ([2, 0, 1, 0], NAMES)
    assert "3 classes by dataset.json (cat, dog, red fox)" in data.summary()
    assert Images(2, path=tmp_path / "a", classes=5).class_names == (*NAMES, "3", "4")
    assert Images(2, path=tmp_path / "a", relabel=True).train.labels.tolist() == [2, 0, 1, 0]


def test_a_list_of_names_says_their_order(tmp_path):
    path = named(tmp_path / "a", ["cat", "owl"], class_names=["owl", "newt", "cat"])
    data = Images(2, path=path)
    assert (data.train.labels.tolist(), data.class_names) == ([2, 0], ("owl", "newt", "cat"))
    data = Images(2, path=path, test_path=named(tmp_path / "b", ["cat", "owl"]), relabel=True)
    assert (data.train.labels.tolist(), data.class_names) == ([1, 0], ("owl", "cat"))
    assert data.test.labels.tolist() == [1, 0]
    with pytest.raises(UserError) as error:
        Images(2, path=named(tmp_path / "c", ["cat", "hen"], class_names=["cat"])).setup()
    assert tells(str(error.value), "... c: dataset.json ... 'hen' ... cat")


def test_numbers_that_are_written_as_text_are_numbers(tmp_path):
    data = Images(2, path=named(tmp_path / "a", ["2", "10", "0"], class_names=[]))
    assert (data.train.labels.tolist(), data.num_classes, data.class_names) == ([2, 10, 0], 11, ())
    assert Images(2, path=named(tmp_path / "b", ["7", "rat"])).class_names == ("7", "rat")


def test_a_mapping_of_labels_is_read_too(tmp_path):
    root = named(tmp_path / "a", [0, 0])
    (root / "dataset.json").write_text(json.dumps({"labels": {"0.png": "dog", "1.png": "cat"}}))
    assert Images(2, path=root).train.labels.tolist() == [1, 0]


def test_held_out_names_are_trainings(tmp_path):
    train = named(tmp_path / "a", ["dog", "cat", "red fox"])
    data = Images(2, path=train, test_path=named(tmp_path / "b", ["red fox", "dog"]))
    assert (data.test.labels.tolist(), data.class_names) == ([2, 1], NAMES)
    by_folder = Images(2, path=folder(tmp_path / "c"), test_path=tmp_path / "b")
    assert by_folder.test.labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("training", "test", "facts"),
    [
        (["cat", "dog"], ["hen"], "... b: dataset.json ... 'hen' ... cat, dog"),
        (["cat", "dog"], [0], "... b: dataset.json ... numbers ... training names"),
        ([0, 1], ["cat"], "... b: dataset.json ... names ... 'cat' ... training ... numbers"),
    ],
)
def test_held_out_labels_of_another_kind_are_refused(tmp_path, training, test, facts):
    with pytest.raises(UserError) as error:
        Images(2, path=named(tmp_path / "a", training), test_path=named(tmp_path / "b", test)).setup()
    assert tells(str(error.value), facts)


@pytest.mark.parametrize(
    "content", [{}, [], None, {"classes": 3}, {"names": "a"}, {"classes": [None]}, {"classes": {"a": "b"}}]
)
def test_what_names_no_classes_is_passed_over(content):
    assert of_label_file(content) == ()


class Feature:
    names = NAMES


class Listed(list):
    def __init__(self, items, **attributes):
        super().__init__(items)
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"features": {"label": Feature()}},
        {"classes": list(NAMES)},
        {"classes": [("cat", "kitty"), ("dog",), ("red fox", "Vulpes")]},
        {"class_names": NAMES},
    ],
)
def test_a_dataset_may_name_them(attributes):
    items = [(picture(i), i) for i in range(3)]
    dataset = Listed(items, **attributes)
    assert MapDataset(2, dataset=dataset).class_names == NAMES
    assert MapDataset(2, dataset=torch.utils.data.Subset(dataset, [0, 2, 1])).class_names == NAMES
    assert of_dataset(Listed(items), "label") == ()


def test_parquet_files_of_datasets_name_them(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    picture().save(tmp_path / "x.png")
    encoded = (tmp_path / "x.png").read_bytes()
    features = {"label": {"names": list(NAMES), "_type": "ClassLabel"}}
    table = pyarrow.table({"image": [{"bytes": encoded, "path": None}] * 3, "label": [0, 1, 2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "train.parquet")
    assert HuggingFace(2, path=tmp_path / "train.parquet").class_names == NAMES


def test_a_column_of_names_is_classes(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    picture().save(tmp_path / "x.png")
    image = {"bytes": (tmp_path / "x.png").read_bytes(), "path": None}
    for split, labels in (("train", ["red fox", "dog", "cat"]), ("test", ["dog"])):
        parquet.write_table(
            pyarrow.table({"image": [image] * len(labels), "label": labels}), tmp_path / f"{split}.parquet"
        )
    data = HuggingFace(2, path=tmp_path, test_split="test")
    assert (data.train.labels.tolist(), data.test.labels.tolist(), data.class_names) == ([2, 1, 0], [1], NAMES)


def test_an_item_may_have_a_name_that_its_dataset_lists():
    items = [(picture(i), name) for i, name in enumerate(["dog", "red fox"])]
    data = MapDataset(2, dataset=Listed(items, classes=NAMES))
    assert (data.train.label(np.arange(2)).tolist(), data.class_names) == ([1, 2], NAMES)
    for names, facts in (
        ({}, "Listed: label 'dog' of item 0 ... classes"),
        ({"classes": ["dog"]}, "... 'red fox' ..."),
    ):
        with pytest.raises(UserError) as error:
            MapDataset(2, dataset=Listed(items, **names)).setup()
        assert tells(str(error.value), facts)


def test_a_label_that_means_another_class_in_the_held_out_set_is_refused():
    items = [(picture(i), i) for i in range(3)]
    test = Listed(items, classes=["dog", "cat", "red fox"])
    with pytest.raises(UserError) as error:
        MapDataset(2, dataset=Listed(items, classes=NAMES), test_dataset=test).setup()
    assert tells(str(error.value), "MapDataset: label 0 ... 'cat' ... 'dog'")
    MapDataset(2, dataset=Listed(items, classes=NAMES), test_dataset=Listed(items, classes=["Cat", "1"])).setup()


def test_names_are_one_for_each_class_on_one_line_and_differ():
    assert complete([], 3) == ()
    assert complete(["crane", "a\nb", "crane", "left out"], 3) == ("crane (0)", "a b", "crane (2)")
    assert complete(["", "x"], 3) == ("0", "x", "2")


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ("cat,dog", [0, 1]),
        ("red fox", [2]),
        (" dog , Cat,2", [1, 0, 2]),
        ("DOG", [1]),
        ("all", [0, 1, 2]),
        ('"red fox",cat', [2, 0]),
    ],
)
def test_labels_are_names_or_numbers(words, labels):
    chosen = classes_of(words, 3, NAMES)
    assert chosen is not None
    assert chosen.tolist() == labels


def test_a_name_with_a_comma_and_one_that_is_a_number():
    assert classes_of("a, b", 2, ("a, b", "c")).tolist() == [0]
    assert classes_of('c,"a, b"', 2, ("a, b", "c")).tolist() == [1, 0]
    with pytest.warns(UserWarning, match="1 is the class of this name, whose number is 0"):
        assert classes_of("1", 2, ("1", "2")).tolist() == [0]
    assert classes_of("0", 2, ("1", "2")).tolist() == [0]


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ("cta", "--labels: ... 'cta' ... did you mean cat"),
        ("cat,hamster", "--labels: ... 'hamster' ... cat, dog, red fox"),
        ("3", "--labels: ... 0 to 2, not 3"),
        ("-1", "--labels: ... 0 to 2, not -1"),
        ("", "--labels: ... ''"),
        ("cat,,dog", "--labels: ... 'cat,,dog'"),
        ("none,cat", "--labels: ... 'none'"),
    ],
)
def test_a_class_that_there_is_not_is_refused_with_the_nearest_name(words, facts):
    with pytest.raises(UserError) as error:
        classes_of(words, 3, NAMES)
    assert tells(str(error.value), facts)


@pytest.fixture
def model(tmp_path):
    """A model of three named classes."""
    node = {"_target_": "lightning_diff.nets.UNet", "shape": [1, 8, 8], "num_classes": 3, "channels": 8}
    node |= {"channel_mult": [1], "num_blocks": 1, "attention": []}
    net = UNet((1, 8, 8), 3, channels=8, channel_mult=[1], num_blocks=1, attention=[])
    save_denoiser(tmp_path / "m", Denoiser(net), node, shape=(1, 8, 8), num_classes=3, class_names=NAMES)
    return tmp_path / "m"


def test_a_models_record_has_them_and_an_older_one_is_read_without(model, tmp_path, capsys):
    assert read_record(model).class_names == NAMES
    out = tmp_path / "named.png"
    words = ["sample", str(model), "--n", "4", "--steps", "2", "--labels", "red fox,cat", "--out"]
    assert main([*words, str(out)]) == 0
    content = json.loads((model / "model.json").read_text())
    del content["class_names"]
    (model / "model.json").write_text(json.dumps(content))
    assert read_record(model).class_names == ()
    assert main([*words, str(out)]) == 2
    assert tells(capsys.readouterr().err, "error: --labels: ... 0 to 2 ... 'red fox'")
    assert (
        main(["sample", str(model), "--n", "4", "--steps", "2", "--labels", "2,0", "--out", str(tmp_path / "x.png")])
        == 0
    )
    named, numbered = (np.asarray(Image.open(path)) for path in (out, tmp_path / "x.png"))
    assert np.array_equal(named[16:], numbered[16:])  # the same samples
    assert not np.array_equal(named[:16], numbered[:16])


def test_a_name_that_cannot_be_drawn_is_a_number_in_pictures(tmp_path):
    assert [pictures.caption(i, ["cat", "Füchse", "лиса", "猫"]) for i in range(5)] == [
        "cat",
        "Füchse",
        "лиса",
        "3",
        "4",
    ]
    long = ["x" * 500, "b"]
    pictures.save_grid(tmp_path / "a.png", torch.zeros(4, 1, 8, 8), 2, row_names=long, column_names=long)
    with Image.open(tmp_path / "a.png") as grid:
        assert grid.width < 400


def test_a_run_writes_them_into_its_model_and_so_does_export(train, tmp_path):
    folder(tmp_path / "animals", n=8)
    net = "{_target_: lightning_diff.nets.UNet, channels: 8, channel_mult: [1], num_blocks: 1, attention: []}"
    run = train(
        "pets",
        f"data={{_target_: lightning_diff.data.Images, path: {tmp_path / 'animals'}, batch_size: 4}}",
        f"model.net={net}",
        "callbacks=[{_target_: lightning_diff.callbacks.SampleGrid, steps: 2, columns: 2}]",
        "trainer.max_steps=1",
    )
    assert read_record(run).class_names == NAMES
    (run / "model.json").unlink()
    assert main(["export", "pets"]) == 0
    assert read_record(run).class_names == NAMES
    grid = np.asarray(Image.open(next((run / "samples").glob("*.png"))))
    assert (grid[:, 0] == 255).all()  # a white margin with the rows' names


def test_examples_of_ones_own_need_no_names():
    assert ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])).class_names == ()

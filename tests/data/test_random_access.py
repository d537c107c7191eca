"""Data sets of `datasets` and litdata: item i of the library at the stream's place, from any process."""

import pickle

import numpy as np
import pytest
import torch
from messages import tells
from PIL import Image

from lightning_diff.data import Datasets, LitData, Stream, loader
from lightning_diff.foundation.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


def picture(i):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[i % 8, :, i % 3] = 10 + i
    return Image.fromarray(pixels)


def lit_item(i):
    return {"image": picture(i), "label": i % 4}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    place = tmp_path_factory.mktemp("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("int64"), "n": datasets.Value("int64")}
        | {"share": datasets.Value("float64")}
    )
    columns = {"image": [picture(i) for i in range(40)], "label": [i % 4 for i in range(40)], "n": list(range(40))}
    columns["share"] = [0.5 + i for i in range(40)]
    whole = datasets.Dataset.from_dict(columns, features=features)
    whole.save_to_disk(place / "one")
    datasets.DatasetDict({"train": whole, "test": whole.select(range(8))}).save_to_disk(place / "splits")
    whole.to_parquet(place / "table/train.parquet")
    return place


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    litdata = pytest.importorskip("litdata")
    place = tmp_path_factory.mktemp("lit") / "chunks"
    litdata.optimize(lit_item, list(range(40)), str(place), num_workers=1, chunk_size=16, start_method="fork")
    return place


EXPECTED = torch.stack([torch.from_numpy(np.array(picture(i))).permute(2, 0, 1) for i in range(40)]).float() / 127.5 - 1


def check(source):
    images, labels = source.train.take(np.arange(40))
    assert torch.equal(images, EXPECTED)
    assert labels.tolist() == [i % 4 for i in range(40)]
    whole = next(iter(loader(source, 3, start=36)))
    halves = [next(iter(loader(source, 3, rank, 2, start=36))) for rank in (0, 1)]
    together = {name: torch.cat([half[name] for half in halves]) for name in whole}
    rows = together["position"].argsort()
    assert all(torch.equal(together[name][rows], each) for name, each in whole.items())
    other = pickle.loads(pickle.dumps(source.train))
    assert torch.equal(other.images(np.arange(40)), EXPECTED)


@pytest.mark.parametrize("place", ["one", "splits", "table", "table/train.parquet"])
def test_datasets_of_every_kind(saved, place, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    check(Datasets(path=saved / place, batch_size=12))


def test_a_held_out_split(saved):
    source = Datasets(path=saved / "splits", test_split="test", batch_size=12)
    assert (len(source.train), len(source.test)) == (40, 8)


def test_litdata(lit):
    check(LitData(path=lit, batch_size=12))


def test_the_stream_of_litdata_is_that_of_datasets(lit, saved):
    positions = np.arange(70, 82)
    one, other = (
        Stream(source, 5).__getitems__(positions)
        for source in (LitData(path=lit, batch_size=12), Datasets(path=saved / "one", batch_size=12))
    )
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_window_goes_through_the_chunks(lit):
    source = LitData(path=lit, batch_size=12, window=4)
    shown = source.train.order(1, 0)
    assert sorted(shown.tolist()) == list(range(40))
    assert len(source.train.sizes) > 1


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (Datasets, {"path": "one", "image_key": "picture"}, "...'picture' ... image, label, n, share"),
        (Datasets, {"path": "splits", "split": "validation"}, "...'validation' ... train, test"),
        (Datasets, {"path": "empty"}, "...empty ... .parquet"),
        (Datasets, {"path": "broken"}, "...broken ... cannot be read ..."),
        (Datasets, {"path": "one", "label_key": "share"}, "Datasets: label 0.5 of item 0 ..."),
        (LitData, {"path": "one"}, "...index.json"),
    ],
)
def test_what_is_not_there_is_one_line(saved, kind, options, told):
    (saved / "empty").mkdir(exist_ok=True)
    (saved / "broken").mkdir(exist_ok=True)
    (saved / "broken/train.parquet").write_bytes(b"PAR1 no table")
    options = options | {"path": saved / options["path"]}
    with pytest.raises(UserError) as error:
        kind(batch_size=12, **options).setup()
    assert tells(str(error.value), told)

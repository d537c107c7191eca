"""Images in buckets of aspect ratios: where they go, in which order batches of one shape show them, and what is refused."""

import math
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from aspect_ratios import BUCKETS, COUNTS, OPTIONS, photographs, pixels
from messages import tells
from PIL import Image
from texts import Letters
from tiny_autoencoder import Halves

from lightning_diff.autoencoders import Pair
from lightning_diff.data import Captions, HuggingFace, Images, Latents, Stream, loader, order
from lightning_diff.data.buckets import sizes_around
from lightning_diff.foundation.errors import UserError

N, EPOCH = sum(COUNTS), sum(count - count % 4 for count in COUNTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs") / "set")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))


def bucketed(folder, batch_size=4, **options):
    return Images(batch_size, path=folder, **OPTIONS | options)


def bucket_of(images):
    return np.searchsorted(np.cumsum(COUNTS), images, side="right")


def steps(data, seed=0, first=0, count=EPOCH // 4):
    """The batches of these optimiser steps."""
    stream, size = Stream(data, seed), data.batch_size
    return [stream.__getitems__(range(size * step, size * (step + 1))) for step in range(first, first + count)]


@pytest.mark.parametrize(("size", "count", "step", "ratio"), [((64, 64), 5, 8, 2.0), ((512, 768), 9, 64, 2.5)])
def test_sizes_around_one_have_its_area_and_ratios_evenly_on_both_sides(size, count, step, ratio):
    sizes = sizes_around(*size, count, step, ratio)
    assert len(set(sizes)) == count
    assert sizes[count // 2] == size
    for k, (height, width) in enumerate(sizes):
        assert height % step == width % step == 0
        wanted = size[1] / size[0] * ratio ** (k / (count // 2) - 1)
        scale = math.sqrt(size[0] * size[1] / wanted)
        assert abs(height - scale) <= step / 2
        assert abs(width - scale * wanted) <= step / 2


def test_each_image_is_cropped_to_the_bucket_nearest_to_its_aspect_ratio(folder):
    data = bucketed(folder)
    assert data.sizes == BUCKETS
    assert data.shapes == tuple((3, *size) for size in BUCKETS)
    assert data.shape == (3, 16, 16)
    assert data.in_buckets.counts == list(COUNTS)
    for number, size in enumerate(BUCKETS):
        members = data.in_buckets.members[number]
        assert np.array_equal(members, np.arange(N)[sum(COUNTS[:number]) : sum(COUNTS[: number + 1])])
        images, labels = data.train.take(members)
        assert labels.tolist() == members.tolist()
        assert torch.equal(images, Images(4, path=folder, size=size, enlarge=True).train.images(members))


def test_the_logarithm_of_the_aspect_ratio_decides(tmp_path):
    photographs(tmp_path / "set")
    sizes = [[8, 8], [8, 32], [32, 8]]
    for height, width, bucket in ((30, 59, 0), (30, 61, 1), (59, 30, 0), (61, 30, 2)):  # 2 is the middle of 1 and 4
        framing = Images(4, path=tmp_path / "set", size=8, buckets=sizes, enlarge=True).framing
        assert framing.nearest(height, width) == tuple(sizes[bucket])


def test_an_epoch_shows_every_image_once_but_for_the_remainder_in_steps_of_one_shape(folder):
    data, shown = bucketed(folder), []
    for epoch in range(3):
        batches = steps(data, first=epoch * EPOCH // 4)
        images = [i for batch in batches for i in batch["label"].tolist()]
        assert len(set(images)) == len(images) == EPOCH
        for batch in batches:
            (number,) = set(bucket_of(batch["label"].numpy()).tolist())
            assert batch["image"].shape == batch["noise"].shape == (4, 3, *BUCKETS[number])
        left = set(range(N)) - set(images)
        numbers = bucket_of(sorted(left))
        assert np.bincount(numbers, minlength=5).tolist() == [count % 4 for count in COUNTS]
        shown.append(images)
    assert shown[0] != shown[1] != shown[2]


def test_every_image_of_a_bucket_is_left_out_equally_often():
    buckets = [np.arange(7), np.arange(7, 12), np.arange(12, 16), np.arange(0)]
    epochs = [order.bucketed(3, epoch, buckets, 4) for epoch in range(35)]
    shown = np.bincount(np.concatenate(epochs), minlength=16)
    assert shown.tolist() == [35 * 4 // 7] * 7 + [35 * 4 // 5] * 5 + [35] * 4


def test_processes_micro_batches_and_workers_share_out_the_same_steps(folder):
    whole = steps(bucketed(folder, flip=True), seed=7, first=5, count=8)
    for world, accumulation, workers in ((1, 2, 0), (2, 1, 0), (2, 2, 2)):
        data = bucketed(folder, flip=True, workers=workers)
        ranks = [iter(loader(data, 7, rank, world, accumulation, start=20)) for rank in range(world)]
        for step in whole:
            micros = [micro for rank in ranks for micro in islice(rank, accumulation)]
            assert len({micro["image"].shape for micro in micros}) == 1
            place = torch.cat([micro["position"] for micro in micros]).argsort()
            for key in step:
                assert torch.equal(torch.cat([micro[key] for micro in micros])[place], step[key]), key


def test_a_mapped_set_is_that_in_memory_and_is_decoded_once(folder, capsys):
    memory = bucketed(folder, cache="never")
    for _ in range(2):
        mapped = bucketed(folder, cache="always")
        mapped.setup()
        assert mapped.fingerprint == memory.fingerprint
        assert mapped.facts() == memory.facts()
        assert mapped.summary() == memory.summary()
        stream = pickle.loads(pickle.dumps(Stream(mapped, 0)))
        assert torch.equal(stream.__getitems__(range(4))["image"], steps(memory, count=1)[0]["image"])
        for ours, theirs in zip(steps(mapped), steps(memory), strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert len(capsys.readouterr().err.splitlines()) == 1
    others = bucketed(folder, cache="always", buckets=[[16, 16], [12, 24]])
    assert others.fingerprint != memory.fingerprint


def test_the_line_at_the_start_counts_buckets_and_what_is_left_out(folder):
    line = bucketed(folder).summary()
    assert tells(line, "Images: 49 images of about 16x16 ... 5 buckets: 11 of 12x24 ... 14 of 16x16 ... 7 of 24x12 ...")
    assert tells(line, "... each epoch leaves out 3 of 12x24, 2 of 16x16, 1 of 20x12, 3 of 24x12 ...")
    sizes = [[16, 16], [8, 64]]
    assert tells(bucketed(folder, 1, size=16, buckets=sizes).summary(), "... 49 of 16x16, none of 64x8 ... shows all")


def test_what_is_held_out_is_in_the_same_buckets(folder):
    data = bucketed(folder, 2, hold_out=10)
    assert sum(data.in_buckets.counts) == N - 10
    counts = np.array(data.in_buckets.counts) + data.test.buckets.counts
    assert counts.tolist() == list(COUNTS)
    labels = {i for batch in steps(data, count=5) for i in batch["label"].tolist()}
    assert not labels & set(data.test.label(np.arange(10)).tolist())


def test_figures_are_measured_against_all_images_in_one_size(folder):
    data = bucketed(folder, 4, hold_out=5)
    squares = data.pictured
    assert squares is data.pictured
    assert squares.in_buckets is None
    assert torch.equal(
        squares.train.images(np.arange(44)), Images(4, path=folder, size=16, hold_out=5).train.images(np.arange(44))
    )
    assert Latents(4, source=data, autoencoder=Pair(Halves(3), 1.0)).pictured is squares


def test_parquet_files_are_read_into_buckets(folder, tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    files = sorted(folder.glob("*.png"))
    table = {"image": [file.read_bytes() for file in files], "label": list(range(N))}
    parquet.write_table(pyarrow.table(table), tmp_path / "train.parquet")
    data = HuggingFace(4, path=tmp_path / "train.parquet", **OPTIONS)
    for ours, theirs in zip(steps(data), steps(bucketed(folder)), strict=True):
        assert torch.equal(ours["image"], theirs["image"])


def test_captions_go_with_images_in_buckets(folder):
    images = bucketed(folder, 1)
    data = Captions(4, source=images, captions={i: [f"image {i}", f"number {i}"] for i in range(N)}, text=Letters())
    data.setup()
    plain = steps(bucketed(folder), seed=5)
    for batch, bare in zip(steps(data, seed=5), plain, strict=True):
        assert torch.equal(batch["image"], bare["image"])
    assert data.pictured.source is images.pictured


@pytest.mark.parametrize("flip", [False, True])
def test_latents_from_the_cache_are_those_of_the_fly(folder, flip):
    def latents(encode):
        source = bucketed(folder, 1, hold_out=5)
        return Latents(4, source=source, autoencoder=Pair(Halves(3), 1.4), encode=encode, flip=flip, encode_batch=3)

    cached, fly = latents("cache"), latents("fly")
    assert cached.shapes == fly.shapes == tuple((3, height // 2, width // 2) for height, width in BUCKETS)
    assert cached.sigma_data == pytest.approx(fly.sigma_data, rel=3e-3)
    for ours, theirs in zip(steps(cached, count=9), steps(fly, count=9), strict=True):
        torch.testing.assert_close(ours["image"], theirs["image"], atol=4e-3, rtol=0)
        assert torch.equal(ours["label"], theirs["label"])
    for number in np.unique(cached.test.buckets.of):
        chosen = cached.test.buckets.members[number]
        torch.testing.assert_close(cached.test.images(chosen), fly.test.images(chosen), atol=4e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"size": None}, "Images: buckets ... size=None"),
        ({"resize": "random_crop"}, "Images: buckets ... resize=random_crop"),
        ({"buckets": 4}, "Images: buckets ... odd ... 4"),
        ({"buckets": 1}, "Images: buckets ... 1"),
        ({"size": 30}, "Images: size 30 ... bucket_step 4 ..."),
        ({"bucket_step": 8}, "Images: buckets: 5 ... [24, 8] ... bucket_step"),
        ({"bucket_step": 0}, "Images: bucket_step ... 0"),
        ({"bucket_ratio": 1.0}, "Images: bucket_ratio ... 1.0"),
        ({"buckets": [[16, 16, 3]]}, "Images: buckets ... [16, 16, 3]"),
        ({"buckets": [[12, 24], [24, 12]]}, "Images: buckets: size [16, 16] ... [[12, 24], [24, 12]] ..."),
        ({"buckets": [[16, 16], [16, 16]]}, "Images: buckets ... twice ..."),
    ],
)
def test_buckets_that_cannot_be_are_refused_at_once(options, facts):
    with pytest.raises(ValueError, match="Images") as error:
        bucketed("nowhere", **options)
    assert tells(str(error.value), facts)


def test_an_image_that_does_not_fill_its_bucket_is_refused_by_name(folder, tmp_path):
    photographs(tmp_path / "set")
    Image.fromarray(pixels(0)[:23]).save(tmp_path / "set" / "00.png")  # 20 wide, 23 high: its bucket is 16x16
    Image.fromarray(pixels(0)[:, :11]).save(tmp_path / "set" / "01.png")  # 11 wide, 40 high: it is 12x24
    with pytest.raises(UserError) as error:
        bucketed(tmp_path / "set").setup()
    assert tells(str(error.value), "... 1 of 49 ... 01.png ... 11x40 ... enlarge=true ... bucket, [24, 12]...")
    assert bucketed(tmp_path / "set", enlarge=True).in_buckets.counts == [10, 8, 15, 9, 7]


def test_a_bucket_that_fills_no_batch_is_refused_with_the_list_that_helps(folder):
    with pytest.raises(UserError) as error:
        Stream(bucketed(folder, 9), 0)
    assert tells(
        str(error.value), "Images: buckets: 8 of 12x20, 7 of 24x12 ... batch of 9 ... batch_size ... buckets=..."
    )
    others = [[24, 12], [16, 16], [12, 20]]
    assert f"buckets={others}" in str(error.value)
    Stream(bucketed(folder, 9, buckets=others), 0)


def test_images_of_two_buckets_are_not_taken_together(folder):
    with pytest.raises(UserError) as error:
        bucketed(folder).train.images(np.array([0, 20]))
    assert tells(str(error.value), "set train: images of 12x24 and 16x16 ...")


def test_a_training_that_would_start_in_the_middle_of_a_step_is_refused(folder):
    with pytest.raises(UserError) as error:
        loader(bucketed(folder), 0, start=6)
    assert tells(str(error.value), "Images: buckets ... image 6 ... batch of 4 ...")

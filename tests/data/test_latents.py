"""Latents as training data: drawn by position, encoded once, mirrored before the encoder, measured in words."""

import errno
import json
import os
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from messages import tells
from tiny_autoencoder import Halves

from lightning_diff.autoencoders import Pair
from lightning_diff.condition import Condition
from lightning_diff.data import Data, Digits, ImageSet, Latents, Stream
from lightning_diff.foundation import caches, rng, shared_work
from lightning_diff.foundation.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(caches.OWN, str(tmp_path / "cache"))
    return tmp_path / "cache" / "latents"


class Counting(Halves):
    """Counts the images that it encodes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.count = 0

    def encode(self, images):
        self.count += len(images)
        return super().encode(images)


def latents(module=None, scale=1.4, **options):
    source = options.pop("source", None) or Digits(batch_size=1)
    return Latents(source=source, autoencoder=Pair(module or Halves(), scale), batch_size=8, **options)


def halves(cache):
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


def test_an_example_is_the_normalised_mean_plus_noise_that_its_position_determines():
    data, source = latents(), Digits(batch_size=8)
    plain, batch = Stream(source, 5).__getitems__(range(16)), Stream(data, 5).__getitems__(range(16))
    noise = rng.normal(5, "latent", range(16), data.shape)
    wanted = 1.4 * (torch.nn.functional.avg_pool2d(plain["image"], 2) + 0.1 * noise)
    torch.testing.assert_close(batch["image"], wanted, atol=2e-3, rtol=0)  # float16 on the disk
    assert torch.equal(batch["label"], plain["label"])
    assert torch.equal(batch["u"], plain["u"])
    again = Stream(latents(), 5).__getitems__([11, 3])
    assert torch.equal(again["image"], batch["image"][[11, 3]])


def test_another_epoch_draws_other_latents_and_without_sampling_the_same():
    n = len(Digits(batch_size=1).train)
    first, second = Stream(latents(), 5), Stream(latents(sample=False), 5)
    for stream, is_same in ((first, False), (second, True)):
        one, two = (stream.__getitems__(range(k * n, (k + 1) * n)) for k in (0, 1))
        order, other = (torch.from_numpy(rng.permutation(5, "image", k, n)) for k in (0, 1))
        assert torch.equal(one["image"][order.argsort()], two["image"][other.argsort()]) is is_same


@pytest.mark.parametrize("encode", ["cache", "fly"])
def test_mirror_images_are_encoded_and_no_latent_is_mirrored(encode):
    class Lopsided(Halves):
        def encode(self, images):
            mean, std = super().encode(images)
            return mean + torch.linspace(0, 1, mean.shape[-1]), std

    data = latents(Lopsided(spread=0.0), scale=1.0, flip=True, encode=encode)
    shown = Stream(data, 3).__getitems__(range(32))["image"] - torch.linspace(0, 1, 4)
    wanted = Stream(Digits(batch_size=8, flip=True), 3).__getitems__(range(32))["image"]
    torch.testing.assert_close(shown, torch.nn.functional.avg_pool2d(wanted, 2), atol=2e-3, rtol=0)


def test_cache_and_fly_give_the_same_examples_up_to_the_cache_s_rounding():
    cached, fly = (Stream(latents(encode=how), 2).__getitems__(range(24)) for how in ("cache", "fly"))
    torch.testing.assert_close(cached["image"], fly["image"], atol=3e-3, rtol=0)


def test_images_are_encoded_once_and_the_size_is_said_before(capsys):
    module = Counting()
    data = latents(module)
    data.setup()
    count = len(data.train) + len(data.test)
    said = capsys.readouterr().out
    assert tells(said, f"encoding {count:,} images with Counting: ... KiB of latents in ...")
    before = module.count
    assert before >= count
    again = latents(module)
    again.setup()
    assert module.count <= before + 1  # of zeros, for the shape
    assert capsys.readouterr().out == ""
    assert np.array_equal(again.test.images(np.arange(5)), data.test.images(np.arange(5)))
    assert again.fingerprint == data.fingerprint


def test_another_scale_needs_no_encoding_and_other_weights_do(cache):
    module = Counting()
    first = latents(module)
    first.setup()
    before = module.count
    rescaled = latents(module, scale=2.8)
    torch.testing.assert_close(rescaled.train.images(np.arange(4)), 2 * first.train.images(np.arange(4)))
    assert module.count <= before + 1
    assert "encoded for scale 1.4" in rescaled.summary()
    assert rescaled.fingerprint != first.fingerprint
    module.weight.data.mul_(2)
    latents(module).setup()
    assert module.count > before
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


def test_sigma_data_is_the_standard_deviation_of_what_training_sees():
    data = latents()
    shown = torch.cat([Stream(data, 0).__getitems__(range(k, k + 500))["image"] for k in range(0, 5000, 500)])
    assert data.sigma_data == pytest.approx(float(shown.std()), rel=0.01)
    assert latents(encode="fly").sigma_data == pytest.approx(data.sigma_data, rel=0.02)


def test_a_standard_deviation_far_from_one_is_remarked_on_with_the_factor():
    data = latents(scale=0.18215)
    std = data.sigma_data
    assert tells(
        data.summary(), f"... standard deviation {std:.4g}, 1 was expected ... times {1 / data.train.std():.4g} ..."
    )
    assert "was expected" not in latents(scale=1.4 / data.train.std() * 0.18215 / 1.4).summary()


@pytest.mark.parametrize("harm", ["cut", "record", "gone"])
def test_a_damaged_cache_is_made_again_with_a_line(cache, capsys, harm):
    module = Counting()
    wanted = latents(module).train.images(np.arange(3))
    folder, before = halves(cache), module.count
    if harm == "cut":
        os.truncate(folder / "train.npy", 500)
    elif harm == "record":
        (folder / "record.json").write_text("{}")
    else:
        (folder / "test.npy").unlink()
    capsys.readouterr()
    assert torch.equal(latents(module).train.images(np.arange(3)), wanted)
    assert module.count > before
    assert tells(capsys.readouterr().out, f"{folder}: ...; encoding again ...")


def test_the_record_names_encoder_normalisation_and_image_size(cache):
    latents().setup()
    record = json.loads((halves(cache) / "record.json").read_text())
    assert (record["name"], record["normalisation"]) == ("Halves", "scale 1.4, shift 0")
    assert (record["image_shape"], record["latent_shape"]) == ([1, 8, 8], [1, 4, 4])


def test_an_interrupted_encoding_leaves_no_cache_and_goes_on_to_the_same_bytes(cache, capsys):
    class Failing(Counting):
        most = 300

        def encode(self, images):
            if self.count > self.most:
                raise RuntimeError("boom")
            return super().encode(images)

    module = Failing()
    with pytest.raises(RuntimeError, match="boom"):
        latents(module, flip=True).setup()
    assert {path.suffix for path in cache.iterdir()} == {".lock", ".partial"}
    capsys.readouterr()
    module.most, before = 10**9, module.count
    data = latents(module, flip=True)
    data.setup()
    count = 2 * len(data.train) + len(data.test)
    assert tells(capsys.readouterr().out, f"encoding {count:,} images with Failing: ... going on, 320 are there")
    assert module.count - before <= count - 320 + 2  # and two of zeros, for the shape
    interrupted = {path.name: path.read_bytes() for path in halves(cache).iterdir()}
    halves(cache).rename(cache / "aside")
    latents(module, flip=True).setup()
    (cache / "aside").rename(cache.parent / "aside")
    assert {path.name: path.read_bytes() for path in halves(cache).iterdir()} == interrupted


def test_a_disk_that_fills_up_is_told_and_what_is_there_stays(cache, monkeypatch, capsys):
    write, calls = shared_work.write, []

    def full(file, start, content):
        calls.append(start)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, start, content)

    monkeypatch.setattr(shared_work, "write", full)
    with pytest.raises(UserError, match=r"No space left on device.* KiB are needed.* kept"):
        latents().setup()
    monkeypatch.setattr(shared_work, "write", write)
    latents().setup()
    assert "going on, 256 are there" in capsys.readouterr().out  # a row of bytes and a line for each of 64


def test_a_block_of_other_bytes_is_damage(cache, capsys):
    wanted = latents().train.images(np.arange(3))
    with (halves(cache) / "train.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    capsys.readouterr()
    assert torch.equal(latents().train.images(np.arange(3)), wanted)
    assert tells(capsys.readouterr().out, "... train.npy holds other bytes ... encoding again ...")


def test_what_differs_from_latents_that_are_there_is_said(capsys):
    latents().setup()
    capsys.readouterr()
    source = Digits(batch_size=1)
    Latents(source=source, autoencoder=Pair(Halves(), 1.4, dtype="bfloat16"), batch_size=8).setup()
    said = capsys.readouterr().out.splitlines()
    assert tells(said[0], "... does not do: autoencoder.dtype was torch.float32 and is torch.bfloat16")
    assert len(said) == 2
    latents(flip=True).setup()
    assert tells(capsys.readouterr().out.splitlines()[0], "... does not do: flip was False and is True")
    latents(Halves(spread=0.3)).setup()
    assert tells(capsys.readouterr().out.splitlines()[0], "... does not do: the autoencoder's weights differ")


def test_a_cache_without_checksums_is_read(cache):
    latents(Counting()).setup()
    record = halves(cache) / "record.json"
    kept = json.loads(record.read_text())
    for name in ("settings", "block", "checks"):
        del kept[name]
    record.write_text(json.dumps(kept))
    module = Counting()
    latents(module).setup()
    assert module.count <= 1


@dataclass(eq=False)
class Told(Data):
    """Six images that are conditioned on named tensors."""

    def load(self):
        class Conditioned(ImageSet):
            condition_shapes = {"text": (2,)}  # noqa: RUF012
            null_condition = Condition({"text": torch.zeros(1, 2)})

            def take(self, indices):
                return self.images(indices), Condition(
                    {"text": torch.as_tensor(indices)[:, None].float().expand(-1, 2)}
                )

        return Conditioned(torch.arange(6 * 16, dtype=torch.uint8).reshape(6, 1, 4, 4)), None


@pytest.mark.parametrize("encode", ["cache", "fly"])
def test_conditions_and_their_null_are_carried_over(encode):
    data = latents(source=Told(1), encode=encode)
    assert data.condition_shapes == {"text": (2,)}
    assert data.null_condition is not None
    batch = Stream(data, 0).__getitems__(range(6))
    assert batch["condition.text"][:, 0].tolist() == rng.permutation(0, "image", 0, 6).tolist()


def test_unconditional_latents_have_no_labels():
    data = latents(conditional=False)
    assert data.num_classes == data.pictured.num_classes == 0
    assert "label" not in Stream(data, 0).__getitems__(range(2))


def test_what_does_not_go_together_is_told(tmp_path, monkeypatch):
    for wrong, said in (
        ({"max_gib": 1e-9}, "data.max_gib: ... KiB ... fly"),
        ({"device": "cuda:99"}, "data.device: cuda:99 cannot be used ..."),
    ):
        with pytest.raises(UserError) as error:
            latents(**wrong).setup()
        assert tells(str(error.value), said)
    with pytest.raises(ValueError, match=r"Latents: source.flip"):
        latents(source=Digits(batch_size=1, flip=True))
    with pytest.raises(UserError) as error:
        latents(Halves(spread=float("nan"))).setup()
    assert tells(str(error.value), "Halves: ... no numbers ...")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError) as error:
        latents(Halves(spread=0.7)).setup()
    assert tells(str(error.value), "... KiB ... free ... fly")

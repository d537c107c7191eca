"""EDM2's latents: read by position, drawn as their code draws them, normalised to 0.5."""

import shutil
import zipfile

import numpy as np
import pytest
import torch
from messages import tells
from tiny_autoencoder import Eighths, write_latents

from lightning_diff.autoencoders import EDM2_NORMALISATION, Pair
from lightning_diff.data import Digits, EDM2Latents, Stream, loader
from lightning_diff.foundation import rng
from lightning_diff.foundation.errors import UserError

SHAPE = (4, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("edm2") / "latents", 24, SHAPE, classes=3)


@pytest.fixture(scope="module")
def archive(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as into:
        for file in sorted(folder.rglob("*.*")):
            into.write(file, file.relative_to(folder))
    return path


def test_an_example_is_scaled_and_biased_as_the_public_code_does(folder):
    data = EDM2Latents(batch_size=8, path=folder)
    batch = Stream(data, 3).__getitems__(range(8))
    names = sorted(folder.rglob("*.npy"))
    order = rng.permutation(3, "image", 0, 24)[:8]
    rows = torch.from_numpy(np.stack([np.load(names[i]) for i in order]))
    mean, std = rows.chunk(2, 1)
    noise = rng.normal(3, "latent", range(8), SHAPE)
    scale = np.float32(0.5) / np.float32([4.17, 4.62, 3.71, 3.28])
    bias = np.float32(0) - np.float32([5.81, 3.25, 0.12, -2.15]) * scale
    wanted = (mean + noise * std) * torch.from_numpy(scale)[:, None, None] + torch.from_numpy(bias)[:, None, None]
    torch.testing.assert_close(batch["image"], wanted, atol=2e-6, rtol=1e-5)
    assert batch["label"].tolist() == (order % 3).tolist()
    assert data.shape == SHAPE
    assert data.num_classes == 3
    assert data.sigma_data == pytest.approx(0.5, rel=0.05)


def test_a_zip_holds_the_same_as_a_folder_in_workers_too(folder, archive):
    one = Stream(EDM2Latents(batch_size=8, path=folder), 0).__getitems__(range(16))
    data = EDM2Latents(batch_size=8, path=archive, workers=2)
    made = loader(data, 0)
    batches = iter(made)
    for first in (0, 8):
        batch = next(batches)
        assert torch.equal(batch["image"], one["image"][first : first + 8])


def test_the_fingerprint_is_of_the_content_of_a_zip(folder, archive, tmp_path):
    before = EDM2Latents(batch_size=8, path=archive).fingerprint
    shutil.copy(archive, tmp_path / "other.zip")
    assert EDM2Latents(batch_size=8, path=tmp_path / "other.zip").fingerprint == before
    changed = shutil.copytree(folder, tmp_path / "changed")
    np.save(changed / "00000" / "img-mean-std-00000003.npy", np.ones((8, 8, 8), np.float32))
    with zipfile.ZipFile(tmp_path / "changed.zip", "w") as into:
        for file in sorted(changed.rglob("*.*")):
            into.write(file, file.relative_to(changed))
    assert EDM2Latents(batch_size=8, path=tmp_path / "changed.zip").fingerprint != before


def test_figures_are_measured_against_the_images_that_are_given(folder):
    pair = Pair(Eighths(), EDM2_NORMALISATION.scale, EDM2_NORMALISATION.shift)
    images = Digits(batch_size=1)
    assert EDM2Latents(batch_size=8, path=folder, autoencoder=pair, images=images).pictured is images
    alone = EDM2Latents(batch_size=8, path=folder)
    assert alone.pictured is alone
    with pytest.raises(UserError, match=r"EDM2Latents: .*data\.images"):
        _ = EDM2Latents(batch_size=8, path=folder, autoencoder=pair).pictured


def test_raw_latents_that_are_no_edm2_ones_are_remarked_on(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    for file in other.rglob("*.npy"):
        np.save(file, 5 * np.load(file))
    assert tells(EDM2Latents(batch_size=8, path=other).summary(), "... warning: latents of ... 0.5 was expected ...")
    assert "expected" not in EDM2Latents(batch_size=8, path=folder).summary()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((7, 8, 8), np.float32), "... shape [7, 8, 8]; expected means ..."),
        (np.zeros((8, 8, 8), np.uint8), "... holds uint8; expected ..."),
        (np.zeros((6, 8, 8), np.float32), "... 4 numbers for scale ... 3 channels"),
    ],
)
def test_arrays_that_are_no_latents_are_told(tmp_path, array, said):
    path = tmp_path / "wrong" / "00000"
    path.mkdir(parents=True)
    np.save(path / "a.npy", array)
    with pytest.raises(UserError) as error:
        EDM2Latents(batch_size=1, path=tmp_path / "wrong").setup()
    assert tells(str(error.value), f"{tmp_path / 'wrong'}: {said}")


def test_a_file_of_another_size_is_named_when_it_is_read(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    np.save(other / "00000" / "img-mean-std-00000005.npy", np.zeros((8, 4, 4), np.float32))
    with pytest.raises(UserError) as error:
        EDM2Latents(batch_size=1, path=other).setup()
    assert tells(str(error.value), f"{other}: 00000/img-mean-std-00000005.npy has shape [8, 4, 4] ...")

"""Folders as diffusers writes them: the same latents and images as the library's own, and errors by file."""

import json

import pytest
import torch
from messages import tells
from safetensors.torch import load_file, save_file
from tiny_autoencoder import saved

from lightning_diff.autoencoders import EDM2, Diffusers
from lightning_diff.autoencoders.diffusers import WEIGHTS
from lightning_diff.foundation.errors import UserError

diffusers = pytest.importorskip("diffusers")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("kl"), shift_factor=0.1)


@pytest.fixture(scope="module")
def dc(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("dc"), "AutoencoderDC")


@torch.no_grad()
def test_kl_s_latents_and_images_are_the_library_s(kl):
    own, ours = diffusers.AutoencoderKL.from_pretrained(kl), Diffusers(kl)
    latents = own.encode(IMAGES).latent_dist
    mean, std = ours.moments(IMAGES)
    torch.testing.assert_close((mean, std), (latents.mean, latents.std))
    torch.testing.assert_close(ours.encode(IMAGES), (latents.mean - 0.1) * 0.18215)
    z = torch.randn(2, *ours.latent_shape((3, 16, 16)))
    torch.testing.assert_close(ours.decode(z), own.decode(z / 0.18215 + 0.1).sample)
    assert ours.image_shape(z.shape[1:]) == (3, 16, 16)


@torch.no_grad()
def test_dc_s_latents_have_no_spread(dc):
    own, ours = diffusers.AutoencoderDC.from_pretrained(dc), Diffusers(dc)
    mean, std = ours.moments(IMAGES)
    assert std is None
    torch.testing.assert_close(ours.encode(IMAGES, torch.randn(2, 4, 8, 8)), own.encode(IMAGES).latent * 0.5)
    torch.testing.assert_close(ours.decode(mean * 0.5), own.decode(mean).sample)
    assert ours.latent_shape((3, 16, 16)) == tuple(mean.shape[1:])


def with_config(folder, tmp_path, **changes):
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (other / "config.json").write_text(json.dumps(config))
    return other


def test_the_normalisation_is_the_config_s_or_the_recipe_s(kl, tmp_path):
    assert str(Diffusers(kl).normalisation) == "scale 0.18215, shift 0.1"
    assert str(Diffusers(kl, scale=2.0).normalisation) == "scale 2, shift 0.1"
    of_channels = with_config(kl, tmp_path, latents_mean=[1, 2], latents_std=[2, 4], scaling_factor=0.5)
    assert str(Diffusers(of_channels).normalisation) == "scale 0.25, 0.125, shift 1, 2"


def test_edm2_s_is_given_images_from_0_to_1(tmp_path):
    folder = saved(tmp_path / "sd", latent_channels=4)
    own, ours = Diffusers(folder, 1.0, 0.0), EDM2(folder)
    mean = own.moments(2 * ((IMAGES + 1) / 2).clamp(0, 1) - 1)[0]
    assert not torch.allclose(ours.moments(IMAGES)[0], mean)
    torch.testing.assert_close(ours.moments(IMAGES)[0], own.moments((IMAGES + 1) / 2)[0])


def test_large_images_go_through_in_tiles(kl):
    whole, tiled = Diffusers(kl), Diffusers(kl, tiling=True)
    images = torch.randn(1, 3, 40, 40).clamp(-1, 1)
    assert tiled.encode(images).shape == whole.encode(images).shape
    assert tiled.decode(torch.randn(1, 2, 20, 20)).shape == (1, 3, 40, 40)
    assert tiled.fingerprint() != whole.fingerprint()


def test_names_of_the_first_files_are_known(kl, tmp_path):
    tensors = load_file(kl / WEIGHTS)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in tensors.items():
        for here, there in new.items():
            if f".{here}." in name:
                name, value = name.replace(here, there), value[..., None, None] if value.ndim == 2 else value
        old[name] = value.contiguous()
    assert old.keys() != tensors.keys()
    folder = with_config(kl, tmp_path)
    save_file(old, folder / WEIGHTS)
    torch.testing.assert_close(Diffusers(folder).encode(IMAGES), Diffusers(kl).encode(IMAGES))


def test_weights_in_parts_are_read_by_their_index(kl, tmp_path):
    folder = with_config(kl, tmp_path)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    index = {}
    for i, (name, value) in enumerate(tensors.items()):
        index[name] = sorted(parts)[i % 2]
        parts[index[name]][name] = value
    for name, part in parts.items():
        save_file(part, folder / name)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    torch.testing.assert_close(Diffusers(folder).encode(IMAGES), Diffusers(kl).encode(IMAGES))
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError) as error:
        Diffusers(folder)
    assert tells(str(error.value), f"{folder / 'b.safetensors'}: no such file ... names it")


def test_what_is_no_autoencoder_is_told_by_its_file(kl, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "vae").mkdir()
    (empty / "vae" / "config.json").write_text("{}")
    for folder, said in (
        (tmp_path / "nowhere", f"{tmp_path / 'nowhere'}: no such folder ..."),
        (empty, f"{empty}: has no config.json ... vae ..."),
        (empty / "vae", f"{empty / 'vae' / 'config.json'}: _class_name is None; ... AutoencoderKL, AutoencoderDC"),
    ):
        with pytest.raises(UserError) as error:
            Diffusers(folder)
        assert tells(str(error.value), said)
    other = with_config(kl, tmp_path)
    (other / WEIGHTS).rename(other / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError) as error:
        Diffusers(other)
    assert tells(str(error.value), f"{other}: has no {WEIGHTS} ... diffusion_pytorch_model.bin ...")


def test_other_weights_channels_and_sizes_are_told_by_the_file(kl, tmp_path):
    wide = with_config(kl, tmp_path, block_out_channels=[4, 8])
    with pytest.raises(UserError) as error:
        Diffusers(wide).encode(IMAGES)
    assert tells(str(error.value), f"{wide / WEIGHTS}: weights of another AutoencoderKL ...")
    ours, config = Diffusers(kl), kl / "config.json"
    for call, shape, said in (
        (ours.latent_shape, (1, 16, 16), "takes images of 3 channels, these are [1, 16, 16]"),
        (ours.latent_shape, (3, 15, 16), "... 16x15 does not divide ..."),
        (ours.image_shape, (4, 8, 8), "decodes latents of 2 channels, these are [4, 8, 8]"),
    ):
        with pytest.raises(UserError) as error:
            call(shape)
        assert tells(str(error.value), f"{config}: {said}")
    with pytest.raises(UserError) as error:
        Diffusers(kl, scale=[1.0, 2.0, 3.0])
    assert tells(str(error.value), f"{config}: 3 numbers for scale ... 2 channels")

"""Encode and decode with a normalisation, for any module."""

import pytest
import torch
from messages import tells
from safetensors.torch import save_file
from tiny_autoencoder import Eighths, Halves
from torch import nn

from lightning_diff.autoencoders import Autoencoder, Normalisation, Pair, as_images
from lightning_diff.foundation.errors import UserError

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


@pytest.mark.parametrize(("scale", "shift"), [(0.2, 0.3), ([0.5, 2.0, -1.0], [1.0, 0.0, -2.0])])
def test_latents_are_scaled_after_the_shift_and_back(scale, shift):
    pair = Pair(Halves(3), scale, shift)
    mean, std = pair.moments(IMAGES)
    column = [torch.tensor(each).reshape(-1, 1, 1) for each in (scale, shift)]
    torch.testing.assert_close(pair.encode(IMAGES), (mean - column[1]) * column[0])
    noise = torch.randn(mean.shape)
    torch.testing.assert_close(pair.encode(IMAGES, noise), (mean + std * noise - column[1]) * column[0])
    torch.testing.assert_close(pair.decode(pair.encode(IMAGES)), Halves(3).decode(mean))
    assert isinstance(pair, Autoencoder)


def test_the_standard_deviation_over_all_values_follows_from_the_channels():
    normalisation = Normalisation([0.5, 2.0], [1.0, -3.0])
    z = torch.randn(50, 2, 8, 8, dtype=torch.float64) * torch.tensor([2.0, 0.1])[:, None, None] + 1
    mean, variance = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
    found = normalisation.std(mean.tolist(), variance.tolist())
    assert found == pytest.approx(float(normalisation.apply(z).std(correction=0)), rel=1e-12)


def test_images_reach_a_module_in_its_own_range():
    class Seen(nn.Module):
        def encode(self, x):
            self.range = float(x.min()), float(x.max())
            return x

        def decode(self, z):
            return z

    seen = Seen()
    pair = Pair(seen, image_range=(0.0, 1.0))
    torch.testing.assert_close(pair.decode(pair.encode(IMAGES)), IMAGES, atol=1e-6, rtol=0)
    assert seen.range == (0.0, 1.0)


def test_what_encodes_is_frozen_and_has_no_graph():
    module = Halves(3).train()
    pair = Pair(module)
    latents = pair.encode(IMAGES.requires_grad_())
    assert not latents.requires_grad
    assert not module.training
    assert not any(weight.requires_grad for weight in module.parameters())


def test_shapes_there_and_back_and_of_what_does_not_fit():
    pair = Pair(Eighths())
    assert pair.latent_shape((3, 32, 16)) == (4, 4, 2)
    assert pair.image_shape((4, 4, 2)) == (3, 32, 16)
    with pytest.raises(UserError) as error:
        pair.latent_shape((1, 32, 32))
    assert tells(str(error.value), "Eighths: does not encode examples of shape [1, 32, 32]: ...")


def test_the_fingerprint_is_of_weights_and_not_of_the_normalisation():
    assert Pair(Halves(), 1.0).fingerprint() == Pair(Halves(), 2.0).fingerprint()
    other = Halves()
    other.weight.data.mul_(2)
    assert Pair(other).fingerprint() != Pair(Halves()).fingerprint()
    assert Pair(Halves(), image_range=(0, 1)).fingerprint() != Pair(Halves()).fingerprint()


def test_weights_come_from_safetensors_and_are_exactly_the_module_s(tmp_path):
    one = Halves()
    one.weight.data.fill_(3.0)
    save_file(one.state_dict(), tmp_path / "one.safetensors")
    pair = Pair(Halves(), weights=tmp_path / "one.safetensors")
    assert pair.fingerprint() == Pair(one).fingerprint()
    for module, said in ((Halves(2), "weight"), (Eighths(), "down.weight")):
        with pytest.raises(UserError) as error:
            Pair(module, weights=tmp_path / "one.safetensors")
        assert tells(str(error.value), f"{tmp_path / 'one.safetensors'}: ... called {said} ...")
    with pytest.raises(UserError) as error:
        Pair(Halves(), weights=tmp_path / "none.safetensors")
    assert tells(str(error.value), f"{tmp_path / 'none.safetensors'}: no such file")


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": [1.0, 0.0]}, {"shift": float("nan")}, {"scale": []}])
def test_a_normalisation_that_cannot_be_undone_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Pair(Halves(), **options)


def test_samples_become_images_in_any_batches_and_stay_where_there_is_no_autoencoder():
    pair, latents = Pair(Eighths()), torch.randn(5, 4, 2, 2)
    whole = as_images(latents, pair)
    assert whole.shape == (5, 3, 16, 16)
    torch.testing.assert_close(as_images(latents, pair, batch=2), whole)
    assert as_images(latents[:0], pair).shape == (0, 3, 16, 16)
    assert as_images(latents, None) is latents

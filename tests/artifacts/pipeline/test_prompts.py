"""A whole pipeline, text encoders and autoencoder included, loaded and imported: the pictures that it draws of the same prompts."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from pipeline_folders import read, write_with_text

from lightning_diff.artifacts import import_pipeline, load_autoencoder, load_denoiser, load_pipeline, read_record
from lightning_diff.condition import Prompts
from lightning_diff.foundation.binding import bind, construct
from lightning_diff.samplers import euler, pure_noise
from lightning_diff.samplers.guidance import guided
from lightning_diff.text import TextEncoder

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a handwritten seven", "the digit two"]
STEPS, SCALE, PIXELS = 4, 3.0, 64


def test_an_imported_pipeline_draws_what_the_library_draws_of_a_prompt(tmp_path):
    write_with_text(tmp_path / "sd3", PROMPTS)
    import_pipeline(tmp_path / "sd3", tmp_path / "run")
    record, denoiser = read_record(tmp_path / "run"), load_denoiser(tmp_path / "run")
    loaded = load_pipeline(tmp_path / "sd3")
    text, autoencoder = construct(bind(record.text, TextEncoder, "text")), load_autoencoder(tmp_path / "run")
    denoiser, eps = denoiser.told(Prompts(PROMPTS, text.encode(PROMPTS))), torch.randn(2, 4, 8, 8)
    pipeline = read(tmp_path / "sd3")
    images = pipeline(
        PROMPTS,
        latents=eps.clone(),
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        height=PIXELS,
        width=PIXELS,
        output_type="pt",
    ).images
    s, labels = pipeline.scheduler.sigmas.double(), torch.arange(2)
    denoise, first = (guided(each, labels, scale=SCALE) for each in (denoiser, pure_noise.AtPureNoise(denoiser)))
    with torch.no_grad():
        latents = pure_noise.solve(euler, denoise, eps, s / (1 - s), from_noise=first)
        ours = (autoencoder.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert (ours - images).norm() < 1e-4 * images.norm()
    assert record.conditions.takes_condition
    assert loaded.sampling.grid == "flow"
    null, known = denoiser.net.null_condition, loaded.denoiser.net.null_condition
    assert all(torch.equal(each, known.tensors[name]) for name, each in null.tensors.items())

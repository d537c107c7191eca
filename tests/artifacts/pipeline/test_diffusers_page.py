"""docs/howto/diffusers.md: its commands, on a Stable Diffusion 3 of random weights and pictures with captions beside them."""

import re
import shlex
from pathlib import Path

import numpy as np
import pipeline_folders
import pytest
from PIL import Image

from lightning_diff.cli import main

pytestmark = pytest.mark.whole

PAGE = (Path(__file__).parents[3] / "docs" / "howto" / "diffusers.md").read_text()
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()]
SHORT = {
    "sample": ["--steps", "2"],
    "train": [
        "data.source.source.size=64",
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "callbacks.0.steps=2",
        "report=false",
    ],
}


@pytest.mark.filterwarnings("ignore")  # diffusers' and transformers' own
def test_its_commands_go_from_a_folder_to_adapters_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_DIFF_CACHE", str(tmp_path / "cache"))
    pipeline_folders.write_with_text(Path("sd3.5-medium"), ["a", "cat", "dog"])
    Path("photos").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
        Path(f"photos/{i}.txt").write_text("a cat" if i % 2 else "a dog")
    for name, content in re.findall(r"^\*\*([\w.]+)\*\*\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S):
        Path(name).write_text(content)
    for line in COMMANDS:
        _, command, *words = shlex.split(line, comments=True)
        assert main([command, *words, *SHORT.get(command, [])]) == 0, line
    assert Path("photos_lora/pytorch_lora_weights.safetensors").is_file()
    pipeline = pipeline_folders.read(Path("photos_pipeline"))
    drawn = pipeline("a cat", num_inference_steps=2, guidance_scale=4.0, height=64, width=64, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)
    assert np.isfinite(drawn).all()

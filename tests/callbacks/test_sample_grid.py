"""Pictures from the same noise every time: what changes between two is the model."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_diff.data import Data, ImageSet
from lightning_diff.foundation.errors import UserError


class Noise(Data):
    """Grey 8x8 images of noise, in three classes."""

    def load(self):
        pixels = torch.randint(0, 256, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(64) % 3), None


class Scale(nn.Module):
    """A network of one weight for each label."""

    def __init__(self, num_classes: int = 0):
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.linspace(-0.5, 0.5, num_classes + 1))

    def forward(self, x, c_noise, label=None):
        index = torch.full((len(x),), self.num_classes) if label is None else label
        return x * self.weight[index].reshape(-1, 1, 1, 1)


def draw(train, name: str, *overrides: str, grid: str = "", rate: float = 0.0):
    return train(
        name,
        "model.net={_target_: test_sample_grid.Scale}",
        f"model.optimizer={{_target_: torch.optim.SGD, _partial_: true, lr: {rate}}}",
        "data={_target_: test_sample_grid.Noise, batch_size: 16}",
        f"callbacks=[{{_target_: lightning_diff.callbacks.SampleGrid, steps: 3, columns: 4, rows: 5, {grid}}}]",
        *overrides,
    )


def pictures(folder) -> dict[str, bytes]:
    return {path.stem.lstrip("0"): path.read_bytes() for path in sorted((folder / "samples").glob("*.png"))}


def test_the_noise_is_the_same_every_time_and_its_seed_its_own(train):
    still = pictures(draw(train, "still", grid="every: 48"))
    assert list(still) == ["48", "96", "128"]  # where images crossed a multiple, and at the end
    assert len(set(still.values())) == 1  # a model that does not learn draws the same picture
    assert still["128"] == pictures(draw(train, "seeded", "seed=4"))["128"]  # the run's seed has no part in it
    assert still["128"] != pictures(draw(train, "other", grid="seed: 1"))["128"]
    assert len(set(pictures(draw(train, "moving", grid="every: 48", rate=1.0)).values())) == 3


def test_the_noise_is_the_same_after_a_resume(train):
    whole = pictures(draw(train, "whole", grid="every: 48", rate=1.0))
    draw(train, "parts", "trainer.max_steps=4", grid="every: 48", rate=1.0)
    parts = pictures(draw(train, "parts", grid="every: 48", rate=1.0))
    assert {name: parts[name] for name in whole} == whole


@pytest.mark.parametrize("conditional", [True, False])
def test_a_picture_has_a_row_for_each_class_or_the_rows_asked_for(train, conditional):
    folder = draw(train, "run", f"data.conditional={str(conditional).lower()}")
    (path,) = (folder / "samples").glob("*.png")
    rows = 3 if conditional else 5
    with Image.open(path) as picture:
        assert picture.width / picture.height == pytest.approx(4 / rows, rel=0.02)


def test_what_is_no_image_is_refused_before_training(train):
    with pytest.raises(UserError, match=r"SampleGrid: .*\(2,\)"):
        train("points", "callbacks=[{_target_: lightning_diff.callbacks.SampleGrid}]")


def test_guidance_that_the_model_will_never_have_is_refused_before_training(train):
    with pytest.raises(UserError, match=r"SampleGrid: guidance: .*condition_dropout"):
        draw(train, "guided", grid="guidance: 2.0")
    assert not list(Path("runs/guided").glob("checkpoints/*"))
    assert pictures(draw(train, "dropping", "model.condition_dropout=0.5", grid="guidance: 2.0"))

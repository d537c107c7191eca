"""Samples as they were when this file was written: a change of numbers needs a change of samples.json in the same commit.

`python tests/samplers/test_golden.py` writes it. The denoiser is of sums, products and quotients alone,
which all machines round alike.
"""

import json
from pathlib import Path

import pytest
import torch

from lightning_diff.samplers import SOLVERS

FILE = Path(__file__).with_name("samples.json")
KEPT = json.loads(FILE.read_text()) if FILE.exists() else {}
GRIDS = {
    "long": [80.0, 40.0, 18.0, 7.0, 2.5, 0.9, 0.3, 0.05, 0.0],
    "uneven": [80.0, 79.0, 3.0, 0.5, 0.0],
    "short": [80.0, 1.0, 0.0],
}
OPTIONS = {"heun": [{}, {"S_churn": 2.0, "S_noise": 1.003, "S_min": 0.1, "S_max": 50.0}], "ipndm": [{}, {"order": 2}]}


def denoise(x, sigma):
    """Towards a bent line, by less where there is less noise."""
    return (x + sigma**2 * (0.3 + x / (4 + x * x))) / (1 + 1.5 * sigma**2)


def fresh(x, step):
    return torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape) * (1 + step)


def samples(solver, dtype):
    x = 80 * torch.tensor([[-1.3, 0.2, 0.9]], dtype=dtype)
    found = {}
    for options in OPTIONS.get(solver, [{}]):
        for name, grid in GRIDS.items():
            sigmas = torch.tensor(grid, dtype=torch.float64)
            end = SOLVERS[solver](denoise, x, sigmas, generator=fresh, **options)
            found[" ".join([name, *map(str, options)])] = end[0].tolist()
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("solver", KEPT)
def test_samples_are_what_they_were(solver, dtype, tolerance):
    kept = KEPT[solver][str(dtype)]
    found = samples(solver, dtype)
    assert found.keys() == kept.keys()
    for name, values in found.items():
        assert values == pytest.approx(kept[name], rel=tolerance, abs=tolerance)


if __name__ == "__main__":
    record = {name: {str(dtype): samples(name, dtype) for dtype in (torch.float32, torch.float64)} for name in SOLVERS}
    FILE.write_text(json.dumps(record, indent=1) + "\n")

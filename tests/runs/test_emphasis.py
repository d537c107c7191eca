"""What a recipe says of its noise levels before it trains is what training then draws and weighs."""

from pathlib import Path

import pytest
import torch
from messages import tells

from lightning_diff import DiffusionModule
from lightning_diff.cli import main
from lightning_diff.nets import MLP
from lightning_diff.noise import LogNormal, LogUniform, sigma_to_log_snr
from lightning_diff.runs.emphasis import draw, emphasis, lines
from lightning_diff.weighting import MinSNR, Uniform


def module(**options):
    return DiffusionModule(MLP((2,), width=8, depth=1), **options)


def test_the_density_is_that_of_the_draws():
    found = emphasis(module(noise=LogNormal(-1.2, 1.2)))
    assert torch.trapezoid(found.density, found.log_snr) == pytest.approx(1, abs=1e-3)
    mean = torch.trapezoid(found.log_snr * found.density, found.log_snr)
    u = (torch.arange(4096).double() + 0.5) / 4096
    assert mean == pytest.approx(float(sigma_to_log_snr(LogNormal(-1.2, 1.2).icdf(u), 0.5).mean()), abs=0.02)


def test_the_product_is_the_objectives_share():
    plain, weighted = (emphasis(module(weighting=weighting)) for weighting in (Uniform(), MinSNR(gamma=5)))
    assert torch.allclose(plain.product, plain.density / torch.trapezoid(plain.density, plain.log_snr), atol=1e-6)
    assert torch.trapezoid(weighted.product, weighted.log_snr) == pytest.approx(1)
    own = MinSNR(gamma=5)(weighted.log_snr.float(), torch.ones(401))
    assert torch.allclose(weighted.weight.float(), own)


def test_bars_rise_where_levels_are_drawn():
    text = lines(emphasis(module(noise=LogUniform(0.05, 5.0))), 0.5).splitlines()
    bars = text[1][-40:]
    assert bars[:5].isspace()
    assert "█" in bars[15:25]
    assert bars[-5:].isspace()


@pytest.mark.draws
def test_show_prints_the_comment_and_draws(tmp_path, capsys):
    out = tmp_path / "levels.png"
    assert main(["show", "digits_edm", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("EDM")
    assert tells(shown, "...noise levels ... p, how often drawn ... w, the weight ... p w")
    assert out.stat().st_size > 10_000


def test_a_picture_of_a_module_without_a_law_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("from lightning.pytorch import LightningModule\nclass Own(LightningModule):\n    pass\n")
    Path("own.yaml").write_text(
        "model: {_target_: own.Own}\ndata: {_target_: lightning_diff.data.Toy, batch_size: 4}\ntrainer: {max_steps: 1}\n"
    )
    assert main(["show", "own.yaml", "--out", "levels.png"]) == 2
    assert tells(capsys.readouterr().err, "...own.yaml ... Own ... law of noise levels")


@pytest.mark.draws
def test_the_picture_is_whole_or_not_there(tmp_path):
    draw(tmp_path / "levels.png", emphasis(module()), 0.5, "run")
    assert [path.name for path in tmp_path.iterdir()] == ["levels.png"]

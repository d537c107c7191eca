"""The FID's network: a file is taken by its hash, images go in as bytes, and what comes out is torch-fidelity's."""

import hashlib
import re
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import FeatureExtractor, feature_extractor, inception
from lightning_diff.metrics.inception import MODULE, Inception


def take_for_the_published(path, monkeypatch):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(
        inception, "WEIGHTS", replace(inception.WEIGHTS, sha256=digest, url="file:///nowhere/weights.pth")
    )


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file that is taken for the published one."""
    path = tmp_path / "weights.pth"
    torch.save({"scale": torch.tensor(3.0)}, path)
    take_for_the_published(path, monkeypatch)
    return path


@pytest.fixture
def stand_in(monkeypatch):
    """A module with the interface of torch-fidelity's extractor, whose features are the sum of the bytes."""

    class Extractor(torch.nn.Module):
        def __init__(self, name, features_list, feature_extractor_weights_path):
            super().__init__()
            self.requested = name, features_list
            self.scale = torch.load(feature_extractor_weights_path)["scale"]

        def forward(self, x):
            assert x.dtype == torch.uint8
            assert x.shape[1] == 3
            return (self.scale * x.float().sum((1, 2, 3)).unsqueeze(1).expand(-1, 2048),)

    module = ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, MODULE, module)


def test_the_library_is_asked_for_the_fid_s_features_with_the_checked_file(weights, stand_in):
    space = Inception(weights)
    assert isinstance(space, FeatureExtractor)
    assert space.net.requested == ("fid_inception", ["2048"])
    assert space.hash == inception.WEIGHTS.sha256[:12]
    assert torch.equal(space(torch.full((1, 1, 2, 2), -1 + 2 / 255))[0, :2], torch.tensor([36.0, 36.0]))


def test_images_are_bytes_to_the_network(weights, stand_in):
    """What a PNG would hold: rounding to a byte changes nothing, values beyond the range are clipped, grey is RGB."""
    space = Inception(weights)
    x = torch.randint(0, 256, (4, 1, 8, 8)) / 127.5 - 1
    jitter = (torch.rand(x.shape) - 0.5) * 0.9 / 127.5
    assert torch.equal(space(x + jitter), space(x))
    assert torch.equal(space(x.expand(-1, 3, -1, -1)), space(x))
    assert torch.equal(space(3 * torch.ones(1, 3, 8, 8)), space(torch.ones(1, 3, 8, 8)))


def test_the_feature_space_is_found_by_both_its_names(weights, stand_in, digits, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_INCEPTION", str(weights))
    for name in ("fid_inception", "inception"):
        assert feature_extractor(name, digits).name == "fid_inception"


def test_no_file_and_another_file_are_refused_before_anything_is_loaded(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("LIGHTNING_DIFF_INCEPTION", raising=False)
    monkeypatch.setattr(inception, "_network", lambda content: pytest.fail("loaded"))
    other = tmp_path / "other.pth"
    torch.save({"scale": torch.zeros(1)}, other)
    for path, named in (
        (None, "LIGHTNING_DIFF_INCEPTION"),
        (tmp_path / "x.pth", "x.pth"),
        (other, "other.pth.*sha256"),
    ):
        with pytest.raises(UserError, match=named):
            Inception(path)


@pytest.mark.parametrize("fault", [ModuleNotFoundError("No module named 'torch_fidelity'"), RuntimeError("no nms")])
def test_a_library_that_is_missing_or_broken_is_named_with_how_to_install_it(weights, monkeypatch, fault):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch_fidelity":
                raise fault

    for name in ("torch_fidelity", MODULE):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UserError, match=f"{re.escape(str(fault))}.*lightning_diff.fid.") as raised:
        Inception(weights)
    assert "\n" not in str(raised.value)


def test_the_real_network_takes_the_published_layout_and_gives_2048_features(tmp_path, monkeypatch):
    library = pytest.importorskip(MODULE, reason="needs the extra `fid`")
    torch.manual_seed(0)
    monkeypatch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    blank = tmp_path / "blank.pth"
    torch.save({}, blank)
    net = library.FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=blank)
    monkeypatch.undo()
    path = tmp_path / "weights.pth"  # as published: without BatchNorm's counters
    torch.save({k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    take_for_the_published(path, monkeypatch)
    space = Inception(path)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(space(pixels / 127.5 - 1), net(pixels)[0])
    assert space(torch.zeros(3, 1, 8, 8)).shape == (3, 2048)
    assert space(torch.zeros(0, 3, 16, 16)).shape == (0, 2048)
    assert sum(p.numel() for n, p in space.net.named_parameters() if not n.startswith("fc.")) == 21_785_568
    assert not any(p.requires_grad for p in space.net.parameters())

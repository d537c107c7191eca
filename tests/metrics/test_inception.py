import hashlib
import re

import pytest
import torch

from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import inception
from lightning_diff.metrics.inception import Inception, load_inception, resize


@pytest.fixture(scope="module")
def net() -> Inception:
    return Inception().eval()


@pytest.fixture(scope="module")
def weights(net, tmp_path_factory):
    """A file in the published layout, without counters, with other numbers in it."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    return path


def test_the_graph_has_inceptions_parameters(net):
    """Inception-v3 without its head has 21,785,568 parameters, in 94 convolutions with as many norms."""
    names = [name for name, _ in net.named_parameters() if not name.startswith("fc.")]
    assert sum(net.get_parameter(name).numel() for name in names) == 21_785_568
    assert len(names) == 3 * 94
    assert net.Mixed_6c.branch7x7dbl_4.conv.weight.shape == (160, 160, 7, 1)
    assert net.Mixed_7c.branch3x3dbl_3b.bn.running_var.shape == (384,)
    assert net.fc.weight.shape == (1008, 2048)


def test_grey_and_coloured_images_of_any_size_have_2048_features(net):
    with torch.no_grad():
        grey = torch.rand(2, 1, 8, 8) * 2 - 1
        features = net(grey)
        assert features.shape == (2, 2048)
        torch.testing.assert_close(net(grey.expand(-1, 3, -1, -1)), features)
        assert net(torch.zeros(0, 3, 16, 16)).shape == (0, 2048)


def test_images_are_bytes_to_the_network(net):
    """What a PNG would hold: rounding to a byte changes nothing, values beyond the range are clipped."""
    byte = torch.randint(0, 256, (1, 3, 8, 8))
    x = byte / 127.5 - 1
    jitter = (torch.rand(x.shape) - 0.5) * 0.9 / 127.5
    with torch.no_grad():
        torch.testing.assert_close(net(x + jitter), net(x), rtol=0, atol=0)
        torch.testing.assert_close(net(3 * torch.ones(1, 3, 8, 8)), net(torch.ones(1, 3, 8, 8)), rtol=0, atol=0)


def test_the_resize_reads_where_tensorflow_reads():
    """Output i reads position i * in / out: corners stay, centres move, and the last pixel repeats."""
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    expected = torch.tensor([0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
    torch.testing.assert_close(resize(ramp, 8)[0, 0, 3], expected)
    torch.testing.assert_close(resize(ramp.mT, 8)[0, 0, :, 3], expected)
    torch.testing.assert_close(resize(torch.arange(8.0).expand(1, 1, 8, 8), 4)[0, 0, 0], torch.tensor([0.0, 2, 4, 6]))


def test_a_file_is_loaded_by_its_hash(net, weights, monkeypatch):
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(weights.read_bytes()).hexdigest()[:8])
    monkeypatch.setenv("LIGHTNING_DIFF_INCEPTION", str(weights))
    loaded = load_inception()
    assert loaded.hash.startswith(inception.SHA256)
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_no_file_another_file_and_a_file_of_another_network_are_said(weights, tmp_path, monkeypatch):
    monkeypatch.delenv("LIGHTNING_DIFF_INCEPTION", raising=False)
    for path, message in [(None, "needs a weights file: get pt_inception"), (tmp_path / "x.pth", "no such")]:
        with pytest.raises(UserError, match=message):
            load_inception(path)
    with pytest.raises(UserError, match=re.escape("sha256 begins with")):
        load_inception(weights)
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pth")
    monkeypatch.setattr(inception, "SHA256", "")
    with pytest.raises(UserError, match="not the weights of the FID's Inception"):
        load_inception(tmp_path / "other.pth")

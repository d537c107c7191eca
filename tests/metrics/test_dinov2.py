"""DINOv2's features: Meta's file read safely, the embeddings resized as Meta does, bytes in, ImageNet's normalisation."""

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.metrics import FeatureExtractor, feature_extractor
from lightning_diff.metrics.dinov2 import MEAN, STD, DinoV2, position_embeddings

WIDTH = 16


class Network(torch.nn.Module):
    """As timm's, with Meta's names, of embeddings and a mean instead of a transformer."""

    def __init__(self):
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 1 + 16 * 16, WIDTH))
        self.register_buffer("seen", torch.zeros(0), persistent=False)

    def forward(self, x):
        assert x.shape[1:] == (3, 224, 224)
        self.seen = x
        return x.mean((2, 3)).repeat(1, 6)[:, :WIDTH] + self.pos_embed.mean((0, 1))


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("timm")

    def create_model(name, *, pretrained, img_size, num_classes, **architecture):
        assert (name, pretrained, img_size, num_classes) == ("vit_large_patch14_dinov2", False, 224, 0)
        return Network()

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setattr(DinoV2, "dim", WIDTH)


@pytest.fixture
def weights(tmp_path):
    """A file laid out as Meta's: embeddings for 518 pixels, and a mask token."""
    generator = torch.Generator().manual_seed(3)
    state = {
        "cls_token": torch.randn(1, 1, WIDTH, generator=generator),
        "pos_embed": torch.randn(1, 1 + 37 * 37, WIDTH, generator=generator),
        "mask_token": torch.zeros(1, WIDTH),
    }
    torch.save(state, tmp_path / "dinov2.pth")
    return tmp_path / "dinov2.pth"


def test_the_space_is_found_by_its_name_and_its_hash_is_of_the_weights(weights, stand_in, digits, monkeypatch):
    monkeypatch.setenv("LIGHTNING_DIFF_DINOV2", str(weights))
    space = feature_extractor("dinov2", digits)
    assert isinstance(space, FeatureExtractor)
    assert (space.name, space.dim) == ("dinov2", WIDTH)
    state = torch.load(weights)
    torch.save(dict(reversed(state.items())), weights)
    assert DinoV2(weights).hash == space.hash
    torch.save(state | {"cls_token": state["cls_token"] + 1}, weights)
    assert DinoV2(weights).hash != space.hash
    assert not any(parameter.requires_grad for parameter in space.net.parameters())


def test_images_become_bytes_then_224_pixels_in_imagenet_s_units(weights, stand_in):
    space = DinoV2(weights)
    bytes_ = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    space(bytes_ / 127.5 - 1 + 0.3 / 127.5)
    expected = F.interpolate(bytes_.float(), (224, 224), mode="bicubic", antialias=True) / 255
    expected = (expected - torch.tensor(MEAN).reshape(1, 3, 1, 1)) / torch.tensor(STD).reshape(1, 3, 1, 1)
    torch.testing.assert_close(space.net.seen, expected)
    grey = bytes_[:, :1] / 127.5 - 1
    assert torch.equal(space(grey), space(grey.expand(-1, 3, -1, -1)))
    assert space(torch.zeros(0, 3, 8, 8)).shape == (0, WIDTH)


def test_the_embeddings_are_scaled_by_a_tenth_of_a_patch_more():
    """As `interpolate_pos_encoding` of Meta's code: of a ramp, patch i takes the place (i + 1/2) / scale - 1/2."""
    ramp = torch.arange(37.0).reshape(37, 1).expand(37, 37).reshape(1, -1, 1)
    table = torch.cat([torch.full((1, 1, 1), 7.0), ramp], dim=1)
    resized = position_embeddings(table, 16)
    assert resized.shape == (1, 257, 1)
    assert resized[0, 0] == 7
    inner = resized[0, 1:, 0].reshape(16, 16)[2:-2, 5]
    places = (torch.arange(2.0, 14.0) + 0.5) * 37 / 16.1 - 0.5
    torch.testing.assert_close(inner, places, atol=0.15, rtol=0)  # a cubic of a ramp is nearly the ramp
    whole = (torch.arange(2.0, 14.0) + 0.5) * 37 / 16 - 0.5
    assert (inner - places).abs().max() < (inner - whole).abs().max()
    assert position_embeddings(resized, 16) is resized


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"no zip", "... cannot be read as DINOv2's weights"),
        ([1, 2], "... no table of tensors"),
        ({"cls_token": torch.zeros(1, 1, WIDTH)}, "... not the weights of DINOv2's ViT-L/14"),
    ],
)
def test_another_file_is_refused_in_a_line(weights, stand_in, content, facts):
    weights.write_bytes(content) if isinstance(content, bytes) else torch.save(content, weights)
    with pytest.raises(UserError) as error:
        DinoV2(weights)
    assert "\n" not in str(error.value)
    assert tells(str(error.value), f"{weights} {facts} ... LIGHTNING_DIFF_DINOV2")


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("the file's code was run",))


def test_a_file_runs_no_code(weights, stand_in):
    torch.save({"cls_token": Hostile()}, weights)
    with pytest.raises(UserError):
        DinoV2(weights)


def test_the_real_network_has_meta_s_names(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm", reason="needs the extra `fid`", exc_type=(ImportError, RuntimeError))
    small = {"embed_dim": WIDTH, "depth": 1, "num_heads": 2}
    monkeypatch.setattr(DinoV2, "architecture", small)
    monkeypatch.setattr(DinoV2, "dim", WIDTH)
    torch.manual_seed(0)
    model = timm.create_model("vit_large_patch14_dinov2", img_size=518, num_classes=0, **small)
    torch.save(model.state_dict() | {"mask_token": torch.zeros(1, WIDTH)}, path := tmp_path / "small.pth")
    assert DinoV2(path)(torch.zeros(2, 3, 32, 32)).shape == (2, WIDTH)

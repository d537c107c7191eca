"""EDM2 snapshots, fabricated here in their layout of our network's weights, become the same denoiser."""

import pickle

import numpy as np
import pytest
import torch
from edm_snapshots import EasyDict, Persistent, edm_modules, parameter, write
from messages import tells

from lightning_diff.artifacts import import_edm_pickle, load_denoiser, read_record
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import EDM2

KWARGS = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 4,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "channels_per_head": 4,
    "dropout": 0.1,
}
BLOCK = {
    "conv0": "conv_res0",
    "embedding": "emb_linear",
    "conv1": "conv_res1",
    "proj": "attn_proj",
    "skip": "conv_skip",
}


@pytest.fixture(autouse=True)
def _edm_modules(monkeypatch):
    edm_modules(monkeypatch)


def network():
    net = EDM2((3, 8, 8), 4, channels=8, channel_mult=(1, 2), num_blocks=1, attention=(8,), head_width=4, dropout=0.1)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    return net.half().float()  # snapshots are in float16


def layer(ours):
    return Persistent("MPConv", weight=parameter(ours.weight.half()), out_channels=len(ours.weight))


def block(ours):
    layers = {
        theirs: None if getattr(ours, own, None) is None else layer(getattr(ours, own)) for own, theirs in BLOCK.items()
    }
    layers["attn_qkv"] = None
    if ours.heads:
        qkv = layer(ours.qkv)
        width = len(qkv.weight) // 3 // ours.heads
        by_head = qkv.weight.reshape(3, ours.heads, width, *qkv.weight.shape[1:])  # theirs: q, k, v within a channel
        qkv.weight.data = by_head.movedim(0, 2).flatten(0, 2).contiguous()
        layers["attn_qkv"] = qkv
    return Persistent("Block", num_heads=ours.heads, emb_gain=parameter(ours.embedding_gain.half()), **layers)


def snapshot(net, **changes):
    fourier = Persistent("MPFourier")
    for name in ("freqs", "phases"):
        fourier.register_buffer(name, getattr(net.fourier, name).half())
    encoder = {"8x8_conv": layer(net.input)} | {f"block{i}": block(each) for i, each in enumerate(net.down)}
    decoder = {f"block{i}": block(each) for i, each in enumerate([*net.middle, *net.up])}
    unet = Persistent(
        "UNet",
        emb_fourier=fourier,
        emb_noise=layer(net.noise),
        emb_label=layer(net.label),
        out_gain=parameter(net.output_gain.half()),
        out_conv=layer(net.output),
        enc=torch.nn.ModuleDict(encoder),
        dec=torch.nn.ModuleDict(decoder),
        _init_args=(),
        _init_kwargs=KWARGS | changes,
    )
    ema = Persistent(
        "Precond", unet=unet, sigma_data=0.6, logvar_linear=Persistent("MPConv", weight=parameter(torch.ones(1, 8)))
    )
    encoder = Persistent("StabilityVAEEncoder", scale=np.float32([0.1, 0.2]), bias=np.float32([1, 2]))
    return EasyDict(ema=ema, encoder=encoder, loss_fn=Persistent("EDM2Loss"), dataset_kwargs=EasyDict(path="x.zip"))


def test_a_snapshot_becomes_the_same_denoiser_and_a_model_of_ours(tmp_path):
    net = network()
    path = write(tmp_path / "edm2.pkl", snapshot(net))
    expected = Denoiser(net, sigma_data=0.6).eval()
    x, sigma, label = torch.randn(3, 3, 8, 8), torch.tensor([0.01, 1.0, 50.0]), torch.tensor([0, 3, 4])
    import_edm_pickle(path, tmp_path / "model")
    for found in (load_denoiser(path), load_denoiser(tmp_path / "model")):
        torch.testing.assert_close(found(x, sigma, label), expected(x, sigma, label), rtol=0, atol=0)
    record = read_record(tmp_path / "model")
    assert (record.num_classes, record.shape, record.sigma_data) == (4, (3, 8, 8), 0.6)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"resample_filter": [1, 3, 3, 1]}, "... edm2.pkl: ... resample_filter"),
        ({"balance": 0.1}, "... edm2.pkl: ... balance"),
        ({"num_blocks": 2}, "... edm2.pkl: ... EDM2"),
    ],
)
def test_another_network_is_refused_in_a_line(tmp_path, changes, facts):
    path = write(tmp_path / "edm2.pkl", snapshot(network(), **changes))
    with pytest.raises(UserError) as error:
        load_denoiser(path)
    assert tells(str(error.value), facts)
    assert "\n" not in str(error.value)


def test_an_array_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    content = snapshot(network())
    content["encoder"] = np.array([Evil()], dtype=object)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"evil\.pkl"):
        load_denoiser(tmp_path / "evil.pkl")

"""EDM snapshots, fabricated in their layout, become the same denoiser; whatever else they hold, nothing of it runs."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from edm_snapshots import edm_modules, network, snapshot, write
from messages import tells

from lightning_diff.artifacts import import_edm_pickle, load_denoiser, read_record
from lightning_diff.artifacts.edm_pickle import load_edm_pickle
from lightning_diff.cli import main
from lightning_diff.denoiser import Denoiser
from lightning_diff.foundation.errors import UserError


@pytest.fixture(autouse=True)
def _edm_modules(monkeypatch):
    edm_modules(monkeypatch)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_snapshot_becomes_the_same_denoiser(tmp_path, protocol):
    net = network()
    loaded = load_edm_pickle(write(tmp_path / "edm.pkl", snapshot(net), protocol))
    expected = Denoiser(net, sigma_data=0.6).eval()
    assert not loaded.training
    x, sigma, label = torch.randn(3, 3, 8, 8), torch.tensor([0.01, 1.0, 50.0]), torch.tensor([0, 3, 4])
    augment = torch.randn(3, 5)
    assert torch.equal(loaded(x, sigma, label, augment=augment), expected(x, sigma, label, augment=augment))


def test_the_attention_is_edms(tmp_path):
    """EDM's own formula on EDM's own layout: channel c of a head holds q, k, v at 3c, 3c + 1, 3c + 2."""
    net = network()
    attention = snapshot(net)["ema"].model.dec["block0"]
    tokens = torch.randn(2, 16, 10)
    qkv = attention.qkv.weight[..., 0, 0] @ tokens + attention.qkv.bias[:, None]
    q, k, v = qkv.reshape(2, 16, 3, 10).unbind(2)
    out = v @ torch.softmax(q.transpose(1, 2) @ k / 4, -1).transpose(1, 2)
    out = attention.proj.weight[..., 0, 0] @ out + attention.proj.bias[:, None]
    loaded = load_edm_pickle(write(tmp_path / "edm.pkl", snapshot(net)))
    assert torch.allclose(loaded.net.middle[0].attention(tokens.transpose(1, 2)).transpose(1, 2), out, atol=1e-5)


class Malicious:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (os.system, ("touch {path}",)),
        (eval, ("open('{path}', 'w')",)),
        (exec, ("open('{path}', 'w')",)),
        (getattr, ("text", "format")),  # what chains of attributes begin with
        (torch.load, ("{path}",)),
        (np.load, ("{path}",)),
    ],
)
def test_a_malicious_file_is_refused_and_nothing_of_it_runs(tmp_path, call, arguments):
    arguments = [argument.format(path=tmp_path / "pwned") for argument in arguments]
    content = snapshot(network()) | {"loss_fn": Malicious(call, *arguments)}
    path = write(tmp_path / "evil.pkl", content)
    with pytest.raises(UserError, match=r"evil\.pkl: .*does not need"):
        load_edm_pickle(path)
    assert not (tmp_path / "pwned").exists()


def test_a_malicious_pickle_inside_a_storage_is_refused(tmp_path):
    """`torch.storage._load_from_bytes` is a pickle in the pickle."""
    inner = pickle.dumps(Malicious(os.system, f"touch {tmp_path / 'pwned'}"), protocol=2)
    content = {"ema": Malicious(torch.storage._load_from_bytes, inner)}
    with pytest.raises(UserError, match=r"evil\.pkl: .*not a readable"):
        load_edm_pickle(write(tmp_path / "evil.pkl", content))
    assert not (tmp_path / "pwned").exists()


def test_one_file_cannot_change_how_the_next_is_read(tmp_path):
    """A pickle may set attributes of a class it names (opcode b, with a tuple of states)."""
    attack = b"ctorch.nn.modules.container\nModuleDict\n(N}(V__setstate__\nccollections\nOrderedDict\nutb."
    (tmp_path / "attack.pkl").write_bytes(attack)
    with pytest.raises(UserError, match=r"attack\.pkl: .*not laid out"):
        load_edm_pickle(tmp_path / "attack.pkl")
    load_edm_pickle(write(tmp_path / "edm.pkl", snapshot(network())))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_class": "DhariwalUNet"}, "DhariwalUNet.*SongUNet"),
        ({"precond_class": "VPPrecond"}, "VPPrecond"),
        ({"embedding_type": "fourier"}, "embedding_type='fourier'"),
        ({"resample_filter": [1, 3, 3, 1]}, "resample_filter"),
        ({"num_blocks": 2}, "weight tensors|laid out"),
        ({"label_dim": 7}, "laid out"),
        ({"img_resolution": 9}, "divisible by 2"),
    ],
)
def test_another_network_is_refused_in_words(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        load_edm_pickle(write(tmp_path / "other.pkl", snapshot(network(), **changes)))


def test_what_is_no_snapshot_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match=r"missing\.pkl: .*cannot be read"):
        load_edm_pickle(tmp_path / "missing.pkl")
    (tmp_path / "text.pkl").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pkl: .*not a readable"):
        load_edm_pickle(tmp_path / "text.pkl")
    with pytest.raises(UserError, match=r"other\.pkl: .*not laid out"):
        load_edm_pickle(write(tmp_path / "other.pkl", {"weights": [1, 2]}))
    whole = write(tmp_path / "cut.pkl", snapshot(network())).read_bytes()
    (tmp_path / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.pkl: .*not a readable"):
        load_edm_pickle(tmp_path / "cut.pkl")


def test_a_pickle_is_a_model_where_a_model_is_asked_for_and_so_is_what_import_makes(tmp_path, capsys):
    path = write(tmp_path / "edm.pkl", snapshot(network(), label_dropout=0.1))
    assert main(["import", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "edm" / "model.safetensors")
    assert main(["import", str(path)]) == 0  # the same one, once more
    pickled, imported = read_record(path), read_record(tmp_path / "edm")
    assert replace(imported, sha256=pickled.sha256) == pickled
    assert (pickled.num_classes, pickled.shape, pickled.sigma_data, pickled.label_dropout) == (4, (3, 8, 8), 0.6, 0.1)
    x, sigma, label = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 5.0]), torch.tensor([0, 3])
    assert torch.equal(load_denoiser(path)(x, sigma, label), load_denoiser(tmp_path / "edm")(x, sigma, label))
    arguments = ["--n", "2", "--steps", "2", "--out"]
    for model in (path, tmp_path / "edm"):
        assert main(["sample", str(model), *arguments, str(tmp_path / f"of_{model.name}.png")]) == 0
    assert (tmp_path / "of_edm.pkl.png").read_bytes() == (tmp_path / "of_edm.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["edm.pkl", "--out", "run"], "run ... is a run folder ... --out"),
        (["edm.pkl", "--out", "other"], "other ... another model ... --out"),
        (["edm.pkl", "--out", "edm.pkl"], "edm.pkl ... is a file ... --out"),
        (["edm.pkl", "--out", "edm.pkl/x"], "edm.pkl/x/model.safetensors ... cannot be written"),
        (["model.json"], "model.json: no such folder"),
        (["none.pkl"], "none.pkl ... cannot be read"),
    ],
)
def test_import_refuses_in_a_sentence_what_it_would_overwrite_or_cannot_read(
    tmp_path, monkeypatch, capsys, arguments, facts
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "edm.pkl", snapshot(network()))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: run")
    import_edm_pickle(write(tmp_path / "other.pkl", snapshot(network())), tmp_path / "other")
    assert main(["import", *arguments]) == 2
    assert tells(capsys.readouterr().err, f"error: ... {facts}")

"""Graphs: the denoiser of any network and parametrisation, with any batch, as pt2 and as ONNX."""

import json
import sys

import onnxruntime
import pytest
import torch
from diffusers_models import MODELS, condition, make, shapes
from export_models import DIT, MLP, run
from messages import tells

from lightning_diff.artifacts import save_denoiser
from lightning_diff.denoiser import Denoiser, FlowTime, TableTime
from lightning_diff.foundation import extras
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs.export import write
from lightning_diff.runs.export.onnx import OPSET

TABLE = {"time": TableTime(), "prediction": "v_prediction"}
ZERO_SNR = {"time": TableTime(zero_snr=True), "prediction": "v_prediction"}
FLOW = {"time": "flow", "prediction": "flow"}


def batch(record, n):
    """Inputs by name, as a program that knows export.json alone makes them."""
    made = {}
    for each in record["inputs"]:
        shape = (n, *each["shape"][1:])
        made[each["name"]] = torch.ones(shape, dtype=getattr(torch, each["dtype"]))
    made["x"], made["sigma"] = torch.randn_like(made["x"]), torch.linspace(0.05, 20, n)
    return made


def exported(folder, target):
    made = write(folder, target)
    assert made.path == folder / "export" / target
    return made, json.loads((made.path / "export.json").read_text())


SLOW = pytest.mark.slow


@pytest.mark.whole
@pytest.mark.parametrize(
    ("node", "how"),
    [(MLP, FLOW), (DIT, TABLE), pytest.param(MLP, {}, marks=SLOW), pytest.param(DIT, {}, marks=SLOW)],
    ids=["flow", "table of a DiT", "edm", "edm of a DiT"],
)
def test_a_pt2_is_the_denoiser_for_any_batch(tmp_path, node, how):
    denoiser = run(tmp_path / "run", node, **how)
    made, record = exported(tmp_path / "run", "pt2")
    program = torch.export.load(made.path / "model.pt2").module()
    for n in (1, 5):
        given = batch(record, n)
        assert torch.allclose(program(*given.values()), denoiser(*given.values()), rtol=1e-5, atol=1e-6)
    assert tells(made.said, "differs ... by ... of the largest value")
    assert record["sigma_data"] == 0.5
    assert record["grid"]["sigmas"][-1] == 0


@pytest.mark.whole
@pytest.mark.parametrize(
    ("node", "how"),
    [(MLP, ZERO_SNR), pytest.param(MLP, FLOW, marks=SLOW), pytest.param(DIT, {}, marks=SLOW)],
    ids=["table", "flow", "edm of a DiT"],
)
def test_an_onnx_is_the_denoiser_for_any_batch(tmp_path, node, how):
    denoiser = run(tmp_path / "run", node, **how)
    made, record = exported(tmp_path / "run", "onnx")
    session = onnxruntime.InferenceSession(str(made.path / "model.onnx"))
    assert [(each.name, each.shape[0]) for each in session.get_inputs()] == [
        (each["name"], "batch") for each in record["inputs"]
    ]
    for n in (1, 5):
        given = batch(record, n)
        found = session.run(["x0"], {name: each.numpy() for name, each in given.items()})[0]
        assert torch.allclose(torch.from_numpy(found), denoiser(*given.values()), atol=1e-3)
    assert record["opset"] == OPSET
    assert record["difference"] < 1e-3


def test_without_the_library_onnx_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "onnx")
    assert tells(str(error.value), "export: --to onnx ... onnxscript ... lightning_diff[onnx]")
    assert not (tmp_path / "run" / "export").exists()
    assert not extras.is_installed("onnxscript")


def test_a_network_that_no_graph_holds_is_refused_in_a_line(tmp_path, monkeypatch):
    run(tmp_path / "run")

    def fail(*_, **__):
        raise RuntimeError("data-dependent\ncontrol flow")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(UserError) as error:
        write(tmp_path / "run", "pt2")
    assert tells(str(error.value), "export: MLP ... data-dependent control flow ... --to safetensors")
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.whole
def test_conditions_are_inputs_by_name(tmp_path):
    net = make("sd3")
    class_name, config, shape = MODELS["sd3"]
    node = {
        "_target_": "lightning_diff.nets.Diffusers",
        "class_name": class_name,
        "config": config,
        "shape": list(shape),
    }
    node |= {"condition_shapes": {name: list(each) for name, each in shapes("sd3").items()}}
    denoiser = Denoiser(net, time=FlowTime(1000.0), prediction="flow").eval()
    save_denoiser(tmp_path / "run", denoiser, node, shape=shape)
    made, record = exported(tmp_path / "run", "pt2")
    assert [each["name"] for each in record["inputs"]] == ["x", "sigma", "encoder_hidden_states", "pooled_projections"]
    program = torch.export.load(made.path / "model.pt2").module()
    label, x, sigma = condition(net, 3), torch.randn(3, *shape), torch.tensor([0.1, 1.0, 9.0])
    assert torch.allclose(program(x, sigma, *label.tensors.values()), denoiser(x, sigma, label), atol=1e-5)

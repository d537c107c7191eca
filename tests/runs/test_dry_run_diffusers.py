"""What a network of the diffusers library would need, told without memory for its weights: whole, in shards, and with adapters."""

import re
from dataclasses import asdict
from pathlib import Path

import jaxtyping
import pytest
import yaml
from diffusers_models import MODELS

from lightning_diff.artifacts import ModelRecord, record
from lightning_diff.nets.diffusers import FAMILIES, building
from lightning_diff.runs import recipe
from lightning_diff.runs.describe import describe

FLUX = ("FluxTransformer2DModel", {}, (16, 128, 128), 512)
SD35 = (
    "SD3Transformer2DModel",
    {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "joint_attention_dim": 4096,
        "pos_embed_max_size": 384,
        "in_channels": 16,
        "out_channels": 16,
        "qk_norm": "rms_norm",
        "dual_attention_layers": list(range(13)),
    },
    (16, 128, 128),
    333,
)
LORA = {"_target_": "lightning_diff.nets.lora.LoRA", "rank": 16}


def node(class_name, config, shape, tokens):
    family = FAMILIES[class_name]
    conditions = family.condition_shapes(building.completed(family, config, shape), tokens)
    return {
        "_target_": "lightning_diff.nets.Diffusers",
        "class_name": class_name,
        "config": config,
        "shape": list(shape),
        "condition_shapes": {name: list(each) for name, each in conditions.items()},
    }


def parts(net: dict, how: str, batch: int = 2) -> dict[str, float]:
    """Bytes of each part, on each of two devices; with "lora" of a model whose record alone is there."""
    family = FAMILIES[net["class_name"]]
    time = family.time(building.completed(family, net["config"], net["shape"])).node()
    model = {"net": net, "time": time, "prediction": family.prediction}
    if how == "lora":
        Path("runs/start").mkdir(parents=True, exist_ok=True)
        known = ModelRecord(
            net=net, sigma_data=1.0, time=time, kind="denoiser", prediction=family.prediction, shape=tuple(net["shape"]),
            num_classes=0, ema="none", images=0, sha256="0" * 64,
        )  # fmt: skip
        record.write(Path("runs/start/model.json"), asdict(known), 2)
        model = {"start": "runs/start", "lora": LORA}
    trainer = {"accelerator": "cpu", "devices": 2, "max_steps": 1, "precision": "bf16-mixed"}
    if how == "shards":
        trainer["strategy"] = "model_parallel"
    data = {"_target_": "conditioned.Drawn", "size": net["shape"], "conditions": net["condition_shapes"], "n": 4}
    whole = {
        "model": {"_target_": "lightning_diff.DiffusionModule", **model},
        "data": {**data, "batch_size": batch},
        "trainer": trainer,
    }
    Path("dry.yaml").write_text(yaml.safe_dump(whole))
    text = describe(recipe.load("dry.yaml"), "dry.yaml")
    table = text[text.index("# memory on each of 2 devices, ") :]
    unit = {"GB": 1e9, "MB": 1e6}[table[31:33]]
    return {name.strip(): float(size) * unit for name, size in re.findall(r"^#   (.+?) {2,}([\d.]+)$", table, re.M)}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(net: dict) -> dict[str, dict[str, float]]:
    found = {how: parts(net, how) for how in ("whole", "shards", "lora")}
    for how, each in found.items():
        print(how, {name: f"{size / 1e9:.2f} GB" for name, size in each.items()})
    whole, shards, lora = found.values()
    assert 0.9 * whole["weights"] < whole["gradients"] < 1.02 * whole["weights"]  # tables of positions do not train
    assert whole["optimiser's state"] == pytest.approx(2 * whole["gradients"], rel=0.02)
    assert shards["optimiser's state"] == pytest.approx(whole["optimiser's state"] / 2, rel=0.02)
    assert lora["weights"] > whole["weights"]
    assert lora["gradients"] < 0.5 * whole["gradients"]
    return found


@pytest.mark.whole
def test_whole_in_shards_and_with_adapters():
    class_name, config, shape = MODELS["sd3"]
    wide = config | {"num_attention_heads": 8, "attention_head_dim": 16, "caption_projection_dim": 128}
    check(node(class_name, wide, shape, 5))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library, which would end the estimate here
@pytest.mark.parametrize(("net", "weights"), [(FLUX, 11.9e9), (SD35, 2.5e9)], ids=["flux", "sd35"])
def test_networks_of_published_sizes(net, weights):
    jaxtyping.config.update("jaxtyping_disable", True)  # as in a run; the next test has the checks again
    found = check(node(*net))
    assert 3.88 * weights < found["whole"]["weights"] < 4.12 * weights
    assert found["lora"]["optimiser's state"] < 0.03 * found["whole"]["optimiser's state"]

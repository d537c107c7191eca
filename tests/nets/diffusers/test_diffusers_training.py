"""Networks of the library in recipes: what the data know is filled in, and trained weights load again."""

import json

import pytest
import torch
from diffusers_models import MODELS, condition, make
from messages import tells
from safetensors.torch import load_file

from lightning_diff import artifacts
from lightning_diff.foundation.errors import UserError


def overrides(name, **more):
    """Of a recipe that trains one of the tiny networks on latents with its conditions."""
    class_name, config, _ = MODELS[name]
    net = {"_target_": "lightning_diff.nets.Diffusers", "class_name": class_name, "config": config | more}
    family = make(name).family
    return (
        f"model.net={json.dumps(net)}",
        f"model.prediction={family.prediction}",
        f"model.time={json.dumps(family.time(make(name).config).node())}",
        f"data={json.dumps({'_target_': 'diffusers_data.Latents', 'network': name, 'batch_size': 8})}",
        "trainer.max_steps=2",
    )


@pytest.fixture
def latents(train, monkeypatch):
    return lambda name, *more, **config: train(name, *overrides(name, **config), *more)


def test_a_text_model_trains_from_a_recipe_and_loads_with_its_null_condition(latents):
    folder = latents("sd3", "model.label_dropout=0.5")
    denoiser = artifacts.load_denoiser(folder)
    net, known = denoiser.net, make("sd3")
    assert net.condition_shapes == known.condition_shapes
    assert torch.equal(
        net.null_condition.tensors["pooled_projections"], known.null_condition.tensors["pooled_projections"]
    )
    x = torch.randn(2, *net.shape)
    with torch.no_grad():
        none, given = denoiser(x, torch.tensor(1.0)), denoiser(x, torch.tensor(1.0), condition(net))
    assert (none - given).norm() > 0


def test_embeddings_of_another_width_end_it_in_one_line(latents):
    with pytest.raises(UserError) as caught:
        latents("sd3", joint_attention_dim=20)
    assert tells(str(caught.value), "... condition_shapes.encoder_hidden_states: is 12 wide ... 20 wide")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "pixart", "flux", "sana"])
def test_shards_and_compiled_blocks_train_the_same(latents, name):
    whole = load_file(latents(name) / "model.safetensors")
    for number, more in enumerate(("trainer.strategy=model_parallel", "model.compile=true")):
        other = load_file(latents(name, f"name={name}{number}", more).parent / f"{name}{number}" / "model.safetensors")
        assert whole.keys() == other.keys()
        for key, value in whole.items():
            assert torch.allclose(value, other[key], atol=1e-4), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_class_models_train_and_shard_from_a_recipe(train, name):
    class_name, config, _ = MODELS[name]
    classes = (
        {"num_class_embeds": 11} if name == "unet" else {"num_embeds_ada_norm": 10, "in_channels": 1, "out_channels": 2}
    )
    net = {"_target_": "lightning_diff.nets.Diffusers", "class_name": class_name, "config": config | classes}
    common = (
        f"model.net={json.dumps(net)}",
        "model.prediction=epsilon",
        "model.time={_target_: lightning_diff.denoiser.TableTime}",
        "data={_target_: lightning_diff.data.Digits, batch_size: 8}",
        "trainer.max_steps=2",
    )
    whole = artifacts.load_denoiser(train(name, *common)).net
    assert whole.num_classes == 10
    sharded = artifacts.load_denoiser(train(f"{name}_sharded", *common, "trainer.strategy=model_parallel")).net
    for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)

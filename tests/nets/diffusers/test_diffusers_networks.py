"""The library's networks as ours: how they are called, what they keep, and what is refused in a line."""

import copy
import json

import pytest
import torch
from diffusers_models import MODELS, TOKENS, UNET, condition, conditioned, make, shapes
from messages import tells

from lightning_diff.condition import Condition, takes_condition
from lightning_diff.denoiser import PREDICTIONS, Denoiser
from lightning_diff.foundation import extras
from lightning_diff.foundation.errors import UserError
from lightning_diff.nets import Diffusers
from lightning_diff.nets.blocks import blocks
from lightning_diff.nets.diffusers import FAMILIES, building, modern


def inputs(net):
    time = net.family.time(net.config)(torch.tensor([0.5, 2.0]))
    return torch.randn(2, *net.shape), time, conditioned(net)


def refused(class_name, config, shape=(4, 8, 8), condition_shapes=None, **more):
    with pytest.raises(UserError) as caught:
        Diffusers(class_name, config, shape, condition_shapes, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
class TestEach:
    def test_none_is_its_null_condition_of_which_nothing_else_is_left(self, name):
        net = make(name)
        x, time, label = inputs(net)
        null = net.null_condition.expand(2) if net.condition_shapes else torch.full((2,), net.num_classes)
        with torch.no_grad():
            plain, given, none = net(x, time), net(x, time, label), net(x, time, null)
        assert torch.equal(plain, none)
        assert (given - none).norm() > 1e-3 * none.norm()
        assert plain.shape == x.shape
        assert takes_condition(net) == bool(net.condition_shapes) == (net.num_classes == 0)

    def test_returns_the_precision_of_its_input(self, name):
        net = make(name)
        x, time, label = inputs(net)
        with torch.no_grad():
            wide = copy.deepcopy(net).double()(x.double(), time.double(), label)
            half = copy.deepcopy(net).bfloat16()(x, time, label)
            plain = net(x, time, label)
        assert wide.dtype == torch.float64
        assert half.dtype == torch.float32
        assert (wide - plain).norm() < 1e-3 * wide.norm()  # of sines in float32
        assert (half - plain).norm() < 0.1 * plain.norm()

    def test_training_drops_no_label_of_its_own(self, name):
        net = make(name).train()
        x, time, label = inputs(net)
        with torch.no_grad():
            assert torch.equal(net(x, time, label), net(x, time, label))

    def test_its_state_is_the_librarys_with_the_null_condition(self, name):
        net = make(name)
        state = net.state_dict()
        assert {key.removeprefix("model.") for key in state if key.startswith("model.")} == set(net.model.state_dict())
        assert all(key.startswith(("model.", "null.")) for key in state)
        other = Diffusers(net.class_name, net.config, net.shape, net.condition_shapes or None, net.num_classes).eval()
        other.load_state_dict(state)
        x, time, _ = inputs(net)
        with torch.no_grad():
            assert torch.equal(other(x, time), net(x, time))

    def test_blocks_hold_nearly_all_weights_and_none_twice(self, name):
        net = make(name)
        found = list(blocks(net))
        assert found == [each for each in net.repeated if any(True for _ in each.parameters())]
        inside = [id(weight) for part in found for weight in part.parameters()]
        assert len(inside) == len(set(inside))
        assert len(found) >= 2
        assert set(inside) <= {id(weight) for weight in net.parameters()}

    def test_defaults_make_a_denoiser_and_are_plain_values(self, name):
        net = make(name)
        assert net.family.prediction in PREDICTIONS
        time = net.family.time(net.config)
        json.dumps(time.node())
        denoiser = Denoiser(net, 0.5, time, prediction=net.family.prediction)
        x, _, label = inputs(net)
        assert denoiser(x, torch.tensor(0.7), label).isfinite().all()
        assert denoiser.knows_pure_noise == (net.family.prediction == "flow")

    def test_scale_of_guidance_is_an_input_or_refused(self, name):
        net = make(name)
        x, time, label = inputs(net)
        scale = torch.tensor([1.0, 4.0])
        if not net.guided:
            with pytest.raises(ValueError, match="guidance scale"):
                net(x, time, label, guidance=scale)
            return
        with torch.no_grad():
            plain, one, guided = (
                net(x, time, label),
                net(x, time, label, guidance=torch.ones(2)),
                net(x, time, label, guidance=scale),
            )
        assert torch.equal(plain, one)
        assert torch.allclose(plain[0], guided[0], atol=1e-6)
        assert (plain[1] - guided[1]).norm() > 1e-4 * plain[1].norm()


def test_seven_classes_are_known():
    assert len(FAMILIES) == 7
    assert {MODELS[name][0] for name in MODELS} == set(FAMILIES)


def test_learned_variance_is_left_out():
    net = make("dit")
    x, time, label = inputs(net)
    with torch.no_grad():
        assert torch.equal(net(x, time, label), net.model(x, time, class_labels=label).sample[:, :4])


def test_a_mask_hides_what_it_leaves_out():
    for name in ("pixart", "sana"):
        net = make(name)
        x, time, given = inputs(net)
        text = given.tensors["encoder_hidden_states"].clone()
        text[:, -1] = 9.0
        with torch.no_grad():
            hidden = net(x, time, Condition(given.tensors | {"encoder_hidden_states": text}))
            assert torch.allclose(hidden, net(x, time, given), atol=1e-6)


def test_masks_may_be_of_whole_numbers_and_left_out():
    net = make("pixart")
    x, time, given = inputs(net)
    whole = Condition(given.tensors | {"encoder_attention_mask": given.tensors["encoder_attention_mask"].long()})
    with torch.no_grad():
        assert torch.equal(net(x, time, whole), net(x, time, given))
    class_name, config, shape = MODELS["pixart"]
    assert Diffusers(class_name, config, shape, {"encoder_hidden_states": (TOKENS, 12)}).condition_shapes


def test_labels_beyond_the_classes_are_no_class():
    net = Diffusers(*MODELS["dit_1000"], num_classes=3).eval()
    x, time, _ = inputs(net)
    with torch.no_grad():
        assert torch.equal(net(x, time, torch.tensor([3, 3])), net(x, time))


def test_a_unet_without_a_row_for_no_class_says_so():
    net = Diffusers(*MODELS["unet"])
    assert net.num_classes == 4
    x, time, _ = inputs(net)
    with pytest.raises(ValueError, match="no embedding for no class"):
        net(x, time)


def test_a_unet_without_classes_needs_nothing():
    config = {**MODELS["unet"][1], "num_class_embeds": None}
    net = Diffusers("UNet2DModel", config, (1, 8, 8), num_classes=0)
    assert net(torch.randn(2, 1, 8, 8), torch.tensor([3.5, 700.0])).shape == (2, 1, 8, 8)


def test_a_condition_of_another_kind_is_told():
    net = make("sd3")
    x, time, given = inputs(net)
    with pytest.raises(ValueError, match=r"takes a Condition, got class labels"):
        net(x, time, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"takes class labels, got Condition"):
        make("dit")(x, time, given)
    unknowing = Diffusers(*MODELS["sd3"], shapes("sd3"))
    with pytest.raises(ValueError, match="does not know its null condition"):
        unknowing(x, time)
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        unknowing.keep_null_condition(Condition({"pooled_projections": given.tensors["pooled_projections"]}))


def test_what_is_no_class_of_the_list_is_refused():
    assert tells(
        refused("AutoencoderKL", {}),
        "nets.Diffusers: class_name ... AutoencoderKL ... UNet2DModel ... SanaTransformer2DModel",
    )


def test_a_misspelt_argument_is_told_with_the_nearest():
    assert tells(refused("DiTTransformer2DModel", {"num_layer": 2}), "nets.Diffusers: config.num_layer: ... num_layers")


def test_what_the_library_refuses_is_one_line():
    config = {
        **UNET,
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "in_channels": 4,
        "out_channels": 4,
    }
    assert tells(refused("UNet2DModel", config), "nets.Diffusers: UNet2DModel: ... block_out_channels")


def test_examples_of_other_channels_or_sizes():
    for name, shape, facts in (
        ("sd3", (3, 8, 8), "SD3Transformer2DModel: ... 3 channels ... 4"),
        ("flux", (3, 8, 8), "FluxTransformer2DModel: ... 3 channels ... 4"),
        ("flux", (4, 7, 8), "FluxTransformer2DModel: ... 7x8"),
        ("sd3", (4, 32, 32), "SD3Transformer2DModel: ... 32x32 ... pos_embed_max_size 8"),
        ("dit", (4, 8, 16), "DiTTransformer2DModel: ... 8x16 ... sample_size is 16"),
        ("unet", (1, 9, 8), "UNet2DModel: ... 9x8"),
        ("sana", (4, 8), "SanaTransformer2DModel: shape must be"),
    ):
        class_name, config, _ = MODELS[name]
        assert tells(refused(class_name, config, shape, shapes(name)), f"nets.Diffusers: {facts}")


def test_conditions_of_other_names_or_widths():
    class_name, config, shape = MODELS["sd3"]
    text, pooled = (TOKENS, 12), (10,)
    for given, facts in (
        (None, "is conditioned on encoder_hidden_states (12 wide), pooled_projections (10 long)"),
        ({"encoder_hidden_states": text}, "condition_shapes: pooled_projections missing"),
        (
            {"encoder_hidden_states": (TOKENS, 32), "pooled_projections": pooled},
            "condition_shapes.encoder_hidden_states: is 32 wide ... 12 wide",
        ),
        (
            {"encoder_hidden_states": text, "pooled_projections": (7,)},
            "condition_shapes.pooled_projections: is 7 long ... 10 long",
        ),
        (
            {"encoder_hidden_states": text, "pooled_projections": pooled, "text_embeds": (3,)},
            "condition_shapes.text_embeds:",
        ),
    ):
        assert tells(refused(class_name, config, shape, given), f"nets.Diffusers: {class_name}: {facts}")
    assert tells(
        refused(*MODELS["dit"], {"encoder_hidden_states": text}),
        "nets.Diffusers: DiTTransformer2DModel: ... takes no condition",
    )


def test_what_is_not_covered_is_refused():
    for name, more in (
        ("unet", {"time_embedding_type": "learned", "num_train_timesteps": 1000}),
        ("unet", {"class_embed_type": "timestep"}),
        ("sd15", {"num_class_embeds": 10}),
        ("sd15", {"addition_embed_type": "text"}),
        ("sd15", {"in_channels": 9}),
        ("flux", {"axes_dims_rope": (4, 4, 4)}),
    ):
        class_name, config, shape = MODELS[name]
        assert tells(refused(class_name, config | more, shape, shapes(name)), f"nets.Diffusers: {class_name}: ...")


def test_too_many_classes():
    assert tells(refused(*MODELS["dit"], num_classes=10), "nets.Diffusers: DiTTransformer2DModel: num_classes 10 ... 3")


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    assert tells(refused("DiTTransformer2DModel", {}), "nets.Diffusers needs diffusers ... pip install")


def test_names_of_before():
    old = {
        "norm_type": "ada_norm_zero",
        "_class_name": "Transformer2DModel",
        "use_linear_projection": False,
        "num_layers": 2,
    }
    assert modern("Transformer2DModel", old) == (
        "DiTTransformer2DModel",
        {"norm_type": "ada_norm_zero", "num_layers": 2},
    )
    assert modern("SD3Transformer2DModel", {"num_layers": 2}) == ("SD3Transformer2DModel", {"num_layers": 2})


def test_the_size_may_be_the_examples():
    class_name, config, shape = MODELS["sana"]
    assert building.completed(FAMILIES[class_name], config, shape)["sample_size"] == 8


def test_condition_tensors_come_in_any_precision():
    net = make("sdxl")
    x, time, given = inputs(net)
    with torch.no_grad():
        assert torch.allclose(net(x, time, given.to(torch.float64)), net(x, time, given), atol=1e-6)
    assert condition(net, 3).shapes == net.condition_shapes

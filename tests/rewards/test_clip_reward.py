"""The adapter with a tiny CLIP of random weights, made here."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch

from lightning_diff.foundation.errors import UserError
from lightning_diff.rewards import ClipReward, scored


@pytest.fixture(scope="module")
def clip():
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    configuration = transformers.CLIPConfig(
        text_config={**common, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49, "bos_token_id": 48},
        vision_config={**common, "image_size": 16, "patch_size": 4},
        projection_dim=8,
    )
    return transformers.CLIPModel(configuration).eval()


@pytest.fixture
def tokens():
    return {"input_ids": torch.tensor([[48, 3, 4, 49], [48, 5, 49, 49], [48, 9, 7, 49]])}


@torch.no_grad()
def test_it_is_the_scaled_cosine_that_the_model_itself_gives(clip, tokens):
    images, label = torch.rand(5, 3, 16, 16) * 2 - 1, torch.tensor([0, 2, 1, 1, 0])
    reward = ClipReward(clip, tokens)
    pixels = ((images + 1) / 2 - reward.mean) / reward.std
    expected = clip(pixel_values=pixels, **tokens).logits_per_image[torch.arange(5), label]
    assert torch.allclose(scored(reward, images, label), expected, atol=1e-4)
    assert torch.allclose(
        ClipReward(clip, tokens, scale=1.0)(images, label) * clip.logit_scale.exp(), expected, atol=1e-4
    )


@torch.no_grad()
def test_grey_pictures_of_any_size_are_taken(clip, tokens):
    reward = ClipReward(clip, tokens)
    small = torch.rand(3, 1, 8, 8) * 2 - 1
    values = scored(reward, small, torch.arange(3))
    assert torch.allclose(scored(reward, small.expand(-1, 3, -1, -1), torch.arange(3)), values)
    with pytest.raises(ValueError, match=r"3 prompts.* 0\.\.2"):
        reward(small, torch.tensor([0, 1, 3]))


@torch.no_grad()
def test_the_model_moves_to_the_images_unless_its_device_is_given(clip, tokens):
    images, label = torch.rand(3, 1, 8, 8, device="meta"), torch.arange(3)
    reward = ClipReward(copy.deepcopy(clip), tokens)
    assert reward(images, label).device.type == "meta"
    assert {weight.device.type for weight in reward.model.value.parameters()} == {"meta"}
    stays = ClipReward(copy.deepcopy(clip), tokens, device="cpu")
    stays(torch.rand(3, 1, 8, 8), label)
    assert next(stays.model.value.parameters()).device.type == "cpu"


@pytest.mark.parametrize("names", [["input_ids"], ["input_ids", "attention_mask"]])
def test_a_processor_may_know_no_masks_and_then_pads_to_full_length(clip, tokens, monkeypatch, names):
    transformers = pytest.importorskip("transformers")
    given = {}

    class Tokenizer:
        model_input_names = names

        def __call__(self, words, **options):
            given.update(options)
            mask = {"attention_mask": torch.ones_like(tokens["input_ids"])} if len(names) > 1 else {}
            return tokens | mask

    looks = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = SimpleNamespace(tokenizer=Tokenizer(), image_processor=looks)
    for name, made in (("AutoModel", clip), ("AutoProcessor", processor)):
        monkeypatch.setattr(transformers, name, SimpleNamespace(from_pretrained=lambda _, made=made: made))
    reward = ClipReward("some/model", ["a zero", "a one", "a two"])
    assert reward.words.shape == (3, 8)
    assert given["padding"] == ("max_length" if len(names) == 1 else True)
    assert reward.needs_label


def test_a_model_given_itself_needs_tokens(clip):
    with pytest.raises(ValueError, match="needs its tokens"):
        ClipReward(clip, ["a zero"])


def test_without_transformers_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'lightning_diff\[transformers\]'"):
        ClipReward("some/model", ["a zero"])


def test_a_folder_without_a_model_is_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=f"{tmp_path} cannot be loaded"):
        ClipReward(str(tmp_path), ["a zero"])

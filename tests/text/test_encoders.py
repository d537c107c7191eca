"""Prompts are embedded as the pipelines of diffusers embed them, from components on a list."""

import inspect
import json
import shutil

import pytest
import torch
from messages import tells

from lightning_diff.foundation.errors import UserError
from lightning_diff.text import PipelineText, RandomEncoders, TextEncoder
from lightning_diff.text.components import PIPELINES
from lightning_diff.text.word_tokenizers import clip_tokenizer, t5_tokenizer

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

TEXTS = ["a handwritten seven", "the digit one", "One unknown word", ""]
WORDS = ["a", "handwritten", "seven", "the", "digit", "one"]
TOKENS = 8


@pytest.fixture(scope="module")
def made():
    return RandomEncoders(TEXTS[:2], width=8, layers=2, tokens=TOKENS)


def encoders():
    """Tiny ones with random weights, by class."""
    clip, t5 = clip_tokenizer(WORDS, 77), t5_tokenizer(WORDS, TOKENS)
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}
    ends = {"bos_token_id": clip.bos_token_id, "eos_token_id": clip.eos_token_id, "pad_token_id": clip.pad_token_id}
    of_clip = transformers.CLIPTextConfig(vocab_size=len(clip), projection_dim=8, **small, **ends)
    gemma = transformers.Gemma2Config(
        vocab_size=len(t5), num_key_value_heads=1, head_dim=4, pad_token_id=0, bos_token_id=1, eos_token_id=1, **small
    )
    of_t5 = transformers.T5Config(vocab_size=len(t5), d_model=16, d_kv=4, d_ff=8, num_layers=2, num_heads=2)
    return {
        "clip": (clip, transformers.CLIPTextModel(of_clip)),
        "projected": (clip, transformers.CLIPTextModelWithProjection(of_clip)),
        "t5": (t5, transformers.T5EncoderModel(of_t5)),
        "gemma": (t5, transformers.Gemma2Model(gemma)),
    }


KINDS = {
    "LatentConsistencyModelPipeline": ["clip"],
    "StableDiffusionPipeline": ["clip"],
    "StableDiffusionXLPipeline": ["clip", "projected"],
    "StableDiffusion3Pipeline": ["projected", "projected", "t5"],
    "FluxPipeline": ["clip", "t5"],
    "PixArtAlphaPipeline": ["t5"],
    "PixArtSigmaPipeline": ["t5"],
    "SanaPipeline": ["gemma"],
    "SanaSprintPipeline": ["gemma"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each pipeline, and the components that are in it."""
    torch.manual_seed(0)
    every, found = encoders(), {}
    for name, kinds in KINDS.items():
        folder, index, parts = tmp_path_factory.mktemp(name), {"_class_name": name}, {}
        for number, kind in enumerate(kinds):
            end = f"_{number + 1}" if number else ""
            for part, each in zip(("tokenizer", "text_encoder"), every[kind], strict=True):
                each.save_pretrained(folder / f"{part}{end}")
                parts[f"{part}{end}"] = each.eval() if isinstance(each, torch.nn.Module) else each
                index[f"{part}{end}"] = ["transformers", type(each).__name__]
        (folder / "model_index.json").write_text(json.dumps(index))
        found[name] = folder, parts
    return found


def of_pipeline(name, parts, **options):
    kind = getattr(diffusers, name)
    needed = [k for k, each in inspect.signature(kind.__init__).parameters.items() if each.default is inspect._empty]
    extra = {"requires_safety_checker": False} if name == "StableDiffusionPipeline" else {}
    pipeline = kind(**dict.fromkeys(needed[1:]) | parts | extra)
    more = {
        key: None for key in inspect.signature(pipeline.encode_prompt).parameters if key in ("prompt_2", "prompt_3")
    }
    with torch.no_grad():
        return pipeline.encode_prompt(TEXTS, device="cpu", num_images_per_prompt=1, **more, **options)


def test_every_pipeline_on_the_list_is_tried():
    assert set(KINDS) == set(PIPELINES)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_prompts_are_embedded_as_their_pipeline_does(folders, name):
    folder, parts = folders[name]
    own = (
        {}
        if name in ("LatentConsistencyModelPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline")
        else {"max_sequence_length": TOKENS}
    )
    encoder = PipelineText(folder, max_tokens=TOKENS, size=(32, 48), instruct=False)
    assert isinstance(encoder, TextEncoder)
    has_negative = "Flux" not in name and "Sprint" not in name
    guided = {"do_classifier_free_guidance": True} if has_negative else {}
    expected = of_pipeline(name, parts, **own, **guided)
    made, null = encoder.encode(TEXTS).tensors, encoder.null().tensors
    assert torch.equal(made["encoder_hidden_states"], expected[0])
    assert encoder.shapes() == {key: tuple(each.shape[1:]) for key, each in made.items()}
    if name.startswith(("PixArt", "Sana")):
        assert torch.equal(made["encoder_attention_mask"], expected[1])
    if name.startswith("StableDiffusion") and len(expected) == 4:
        pooled = made["text_embeds" if "XL" in name else "pooled_projections"]
        assert torch.equal(pooled, expected[2])
    if "XL" in name:
        assert made["time_ids"].tolist() == [[32, 48, 0, 0, 32, 48]] * len(TEXTS)
    if has_negative:
        negative = expected[2 if name.startswith(("PixArt", "Sana")) else 1][:1]
        torch.testing.assert_close(null["encoder_hidden_states"], negative, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_random_encoders_are_a_function_of_their_seed_and_reload_through_the_pipeline(made, tmp_path):
    whole = made.encode(TEXTS)
    again = RandomEncoders(TEXTS[:2], width=8, layers=2, tokens=TOKENS)
    other = RandomEncoders(TEXTS[:2], width=8, layers=2, tokens=TOKENS, seed=1)
    for name, each in whole.tensors.items():
        assert torch.equal(each, again.encode(TEXTS).tensors[name])
        assert not torch.equal(each, other.encode(TEXTS).tensors[name])
        assert 0.5 < each.std() < 2  # of a size that a network can use
    assert again.fingerprint() == made.fingerprint() != other.fingerprint()
    assert made.shapes() == whole.shapes == made.null().shapes

    parts = made.save(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline", **parts}))
    loaded = PipelineText(tmp_path, max_tokens=TOKENS)
    assert loaded.call_arguments() == made.call_arguments()
    none = dict.fromkeys(("transformer", "vae", "scheduler", "image_encoder", "feature_extractor"))
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path, **none)
    with torch.no_grad():
        embeds, _, pooled, _ = pipeline.encode_prompt(TEXTS, None, None, device="cpu", **made.call_arguments())
    for found in (loaded.encode(TEXTS).tensors, {"encoder_hidden_states": embeds, "pooled_projections": pooled}):
        assert all(torch.equal(each, found[name]) for name, each in whole.tensors.items())


@pytest.mark.slow
def test_each_known_word_is_one_token_and_others_are_spelt(made):
    clip, t5 = clip_tokenizer(made.words, TOKENS), t5_tokenizer(made.words, TOKENS)
    for text in TEXTS[:2]:
        assert len(clip.tokenize(text)) == len(t5.tokenize(text)) == 3
    assert clip.tokenize("A SEVEN") == clip.tokenize("a seven")
    assert len(clip.tokenize("eleven")) > 1
    assert clip.unk_token not in clip.tokenize("quite é other!")


@pytest.mark.slow
def test_a_copy_of_the_components_encodes_alike(folders, tmp_path):
    folder, _ = folders["FluxPipeline"]
    first = PipelineText(folder, max_tokens=TOKENS)
    parts = first.save(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", **parts}))
    second = PipelineText(tmp_path, max_tokens=TOKENS)
    assert first.fingerprint() == second.fingerprint() != PipelineText(folder, max_tokens=TOKENS - 1).fingerprint()
    assert first.identities() == second.identities()
    assert {*first.identities()} == {*parts}
    assert torch.equal(
        *(each.encode(TEXTS).tensors["pooled_projections"] for each in (first, second)),
    )


@pytest.mark.slow
def test_bad_folders_are_refused_in_a_line(folders, tmp_path):
    folder, _ = folders["FluxPipeline"]
    index = json.loads((folder / "model_index.json").read_text())

    def refused(facts, change=None, **entries):
        place = tmp_path / "folder"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
        content = {key: value for key, value in (index | entries).items() if value != "left out"}
        (place / "model_index.json").write_text(json.dumps(content))
        if change is not None:
            change(place)
        with pytest.raises(UserError) as error:
            PipelineText(place, max_tokens=TOKENS).encode(["a"])
        assert tells(str(error.value).replace(str(place), "folder"), facts)
        assert "\n" not in str(error.value)

    refused("folder ... model_index.json ...", lambda place: (place / "model_index.json").unlink())
    refused("folder/model_index.json ... JSON ...", lambda place: (place / "model_index.json").write_text("{"))
    refused("folder/model_index.json: _class_name: ... KolorsPipeline ...", _class_name="KolorsPipeline")
    refused("folder/model_index.json: text_encoder_2: ...", text_encoder_2="left out")
    refused("folder/model_index.json: text_encoder: ... BertModel ...", text_encoder=["transformers", "BertModel"])
    refused("folder/model_index.json: text_encoder: my_code ...", text_encoder=["my_code", "CLIPTextModel"])
    refused("folder/text_encoder ...", lambda place: (place / "text_encoder").rename(place / "encoder"))
    refused(
        "folder/text_encoder ... safetensors ...",
        lambda place: rename(place, "text_encoder", "model.safetensors", "model.bin"),
    )
    refused(
        "folder/text_encoder_2 ... T5EncoderModel ...",
        lambda place: (place / "text_encoder_2/model.safetensors").write_bytes(b"x"),
    )
    refused(
        "folder/text_encoder ... missing ...",
        lambda place: shutil.copy(place / "text_encoder_2/model.safetensors", place / "text_encoder"),
    )
    refused(
        "folder/tokenizer ... CLIPTokenizer ...",
        lambda place: rename(place, "tokenizer", "tokenizer.json", "words.json"),
    )
    with pytest.raises(UserError, match="no such folder"):
        PipelineText(tmp_path / "none")


def rename(place, part, old, new):
    (place / part / old).rename(place / part / new)

"""A diffusers folder imported as a model: what the run folder refers to, and what is refused in a sentence."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from messages import tells
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from pipeline_folders import autoencoder, write

from lightning_diff.artifacts import import_pipeline, load_denoiser, load_pipeline, read_record, save_denoiser
from lightning_diff.artifacts.pipeline import hub
from lightning_diff.cli import main
from lightning_diff.foundation.errors import UserError
from lightning_diff.runs.sampler_settings import SamplerSettings
from lightning_diff.schedules import GRIDS

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders as the library saves them, to be copied; written once."""
    root = tmp_path_factory.mktemp("saved")
    for name in ("dit", "sd3", "ddim"):
        write(root / name, name)
    return root


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    """A pipeline of classes, which needs no text."""
    shutil.copytree(saved / "dit", tmp_path / "dit")
    monkeypatch.chdir(tmp_path)
    return Path("dit")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_imported_model_is_the_loaded_one_and_copies_nothing(folder, capsys):
    assert main(["import", "dit", "run"]) == 0
    assert main(["import", "dit", "run"]) == 0  # the same one, once more
    assert capsys.readouterr().out.split() == ["run/model.safetensors"] * 2
    record, net = read_record("run"), load_denoiser("run").net
    expected = load_pipeline(folder).denoiser
    assert all(torch.equal(net.state_dict()[name], each) for name, each in expected.net.state_dict().items())
    assert sorted(path.name for path in Path("run").iterdir()) == ["model.json", "model.safetensors"]
    assert not load_file("run/model.safetensors")
    assert json.loads(Path("run/model.json").read_text())["format"] == 3
    assert (record.num_classes, record.shape) == (1000, (4, 8, 8))
    assert [each["path"] for each in record.weights] == [f"../dit/transformer/{WEIGHTS}"]


def test_both_may_be_moved_together_and_an_absolute_path_stays(folder, tmp_path):
    import_pipeline("dit", "run")
    import_pipeline("dit", "elsewhere/run")
    (tmp_path / "moved").mkdir()
    for name in ("dit", "run"):
        shutil.move(name, tmp_path / "moved" / name)
    load_denoiser("moved/run")
    with pytest.raises(UserError) as caught:
        load_denoiser("elsewhere/run")
    assert tells(str(caught.value), f"{tmp_path}/dit/transformer/{WEIGHTS}: ... import")


def test_a_file_that_changed_is_told_with_both_hashes(folder):
    import_pipeline("dit", "run")
    file, before = folder / "transformer" / WEIGHTS, read_record("run")
    tensors = load_file(file)
    save_file({name: each + 1 for name, each in tensors.items()}, file)
    with pytest.raises(UserError) as caught:
        load_denoiser("run")
    assert tells(str(caught.value), f"dit/transformer/{WEIGHTS}: ... {before.weights[0]['sha256'][:12]} ...")
    assert main(["import", "dit", "run"]) == 2  # another model by now
    assert main(["doctor", "run"]) == 1


def test_models_of_other_files_have_other_identities(folder):
    import_pipeline("dit", "run")
    file = folder / "transformer" / WEIGHTS
    save_file({name: each + 1 for name, each in load_file(file).items()}, file)
    import_pipeline("dit", "other")
    first, second = read_record("run"), read_record("other")
    assert first.sha256 == second.sha256  # neither has weights of its own
    assert first.identity != second.identity


def test_what_is_saved_of_it_is_whole(folder):
    import_pipeline("dit", "run")
    denoiser, record = load_denoiser("run"), read_record("run")
    save_denoiser("whole", denoiser, record.net, shape=record.shape, num_classes=record.num_classes)
    shutil.rmtree("dit")
    assert not read_record("whole").weights
    load_denoiser("whole")


def test_shards_half_precision_and_a_network_alone_are_read(folder):
    file = folder / "transformer" / WEIGHTS
    tensors = {name: each.half() for name, each in load_file(file).items()}
    names = sorted(tensors)
    shards = {f"diffusion_pytorch_model-0000{k + 1}-of-00002.safetensors": names[k::2] for k in range(2)}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, file.with_name(shard))
    index = {"weight_map": {name: shard for shard, own in shards.items() for name in own}}
    file.with_name(f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    file.unlink()
    import_pipeline("dit/transformer", "run")
    state = load_denoiser("run").net.state_dict()
    assert len(read_record("run").weights) == 2
    assert all(torch.equal(state[f"model.{name}"], each.float()) for name, each in tensors.items())
    file.with_name(next(iter(shards))).unlink()
    with pytest.raises(UserError) as caught:
        import_pipeline("dit/transformer", "another")
    assert tells(str(caught.value), f"dit/transformer/{next(iter(shards))}: ... missing ...")


def test_names_of_before_are_read(saved, tmp_path):
    """Attention of DDPM's published weights, as the library had it."""
    shutil.copytree(saved / "ddim", tmp_path / "ddim")
    file, old = (
        tmp_path / "ddim" / "unet" / WEIGHTS,
        {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"},
    )
    expected = load_pipeline(tmp_path / "ddim").denoiser.net.state_dict()

    def before(name):
        for new, name_of_before in old.items():
            name = name.replace(f".{new}.", f".{name_of_before}.")
        return name

    save_file({before(name): each for name, each in load_file(file).items()}, file)
    found = load_pipeline(tmp_path / "ddim").denoiser.net.state_dict()
    assert any(before(name) != name for name in found)
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_dit_by_its_name_of_before_is_read(folder):
    """Published DiT calls itself Transformer2DModel, with arguments of other networks."""
    change(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    named = {"_class_name": "Transformer2DModel", "attention_type": "default", "cross_attention_dim": None}
    change(folder / "transformer" / "config.json", **named)
    assert load_pipeline(folder).node["class_name"] == "DiTTransformer2DModel"
    assert load_pipeline(folder).denoiser.net.num_classes == 1000


def faults(folder):
    """What is done to a folder -> what is told of it."""
    transformer, index = folder / "transformer", folder / "model_index.json"
    config, where = transformer / "config.json", "dit/model_index.json: "
    weights = transformer / WEIGHTS
    tensors = load_file(weights)
    name = next(iter(sorted(tensors)))

    def renamed():
        save_file({("other" if each == name else each): value for each, value in tensors.items()}, weights)

    def missing():
        save_file({each: value for each, value in tensors.items() if each != name}, weights)

    def reshaped():
        save_file(
            {each: (value[:1] if each == name else value).contiguous() for each, value in tensors.items()}, weights
        )

    def pickled():
        torch.save(tensors, transformer / "diffusion_pytorch_model.bin")
        weights.unlink()

    def with_other_channels():
        shutil.rmtree(folder / "vae")
        autoencoder(8).save_pretrained(folder / "vae")

    def outside():
        weights.with_name(f"{WEIGHTS}.index.json").write_text(
            json.dumps({"weight_map": {name: "../../other.safetensors"}})
        )
        weights.unlink()

    yield "no config", lambda: index.unlink(), "dit: ... model_index.json ... config.json"
    yield (
        "no config of the network",
        lambda: config.unlink(),
        "dit/transformer/config.json: ... missing",
    )
    yield "no JSON", lambda: index.write_text("{"), where + "..."
    yield "a list", lambda: index.write_text("[]"), where + "... list"
    yield (
        "another pipeline",
        lambda: change(index, _class_name="KolorsPipeline"),
        where + "... 'KolorsPipeline' ... DiTPipeline",
    )
    yield (
        "its own pipeline",
        lambda: change(index, _class_name=["pipeline", "Mine"]),
        where + "... 'Mine' ...",
    )
    yield (
        "a module of its own",
        lambda: change(index, transformer=["my_transformer", "MyTransformer"]),
        where + "transformer: my_transformer.MyTransformer ... diffusers",
    )
    yield (
        "another class",
        lambda: change(index, vae=["diffusers", "VQModel"]),
        where + "vae: ... VQModel ... AutoencoderKL",
    )
    yield (
        "a class that does not go",
        lambda: change(index, transformer=["diffusers", "AutoencoderKL"]),
        where + "transformer",
    )
    yield (
        "another network in the folder",
        lambda: change(config, _class_name="FluxTransformer2DModel"),
        "dit/transformer/config.json: ... 'FluxTransformer2DModel' ... DiTTransformer2DModel",
    )
    yield (
        "an argument",
        lambda: change(config, sigma_dims=3),
        "dit/transformer/config.json: ... sigma_dims",
    )
    yield (
        "no size",
        lambda: change(config, sample_size=None),
        "dit/transformer/config.json: sample_size ... --size",
    )
    yield (
        "another scheduler",
        lambda: change(index, scheduler=["diffusers", "CogVideoXDDIMScheduler"]),
        where + "scheduler: ... CogVideoXDDIMScheduler ... DDIMScheduler",
    )
    yield (
        "another table",
        lambda: change(folder / "scheduler" / "scheduler_config.json", beta_schedule="sigmoid"),
        "dit/scheduler/scheduler_config.json: beta_schedule: 'sigmoid' ... squaredcos_cap_v2",
    )
    yield "a weight renamed", renamed, f"dit/transformer/{WEIGHTS}: ... 2 of ... {name} ... other"
    yield "a weight missing", missing, f"dit/transformer/{WEIGHTS}: ... 1 of ... {name}"
    yield "a weight of another shape", reshaped, f"dit/transformer/{WEIGHTS}: ... 1 of ... {name}"
    yield "a pickle", pickled, "dit/transformer/diffusion_pytorch_model.bin: ... pickled ... safe_serialization"
    yield "no weights", weights.unlink, f"dit/transformer/{WEIGHTS}: ... missing"
    yield (
        "cut short",
        lambda: weights.write_bytes(weights.read_bytes()[:-100]),
        f"dit/transformer/{WEIGHTS}: ... cut short",
    )
    yield "a path out of the folder", outside, f"dit/transformer/{WEIGHTS}.index.json: ... '../../other.safetensors'"
    yield "other channels", with_other_channels, "dit/vae/config.json: latent_channels: ... 8 ... 4"


FAULTS = (
    *(
        "no config",
        "no config of the network",
        "no JSON",
        "a list",
        "another pipeline",
        "its own pipeline",
        "a module of its own",
    ),
    *(
        "another class",
        "a class that does not go",
        "another network in the folder",
        "an argument",
        "no size",
        "another scheduler",
    ),
    *(
        "another table",
        "a weight renamed",
        "a weight missing",
        "a weight of another shape",
        "a pickle",
        "no weights",
        "cut short",
    ),
    *("a path out of the folder", "other channels"),
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_imported_is_refused_in_a_line(folder, capsys, fault):
    done, facts = next((do, facts) for name, do, facts in faults(folder) if name == fault)
    done()
    assert main(["import", "dit", "run"]) == 2
    error = capsys.readouterr().err
    assert tells(error, f"error: {facts}"), error
    assert error.count("\n") == 1
    assert not Path("run").exists()


def test_every_fault_is_tried(folder):
    assert [name for name, *_ in faults(folder)] == list(FAULTS)


class Hub:
    """huggingface_hub without a network."""

    def __init__(self, error):
        self.error = error

    def snapshot_download(self, name, **_):
        raise self.error


def test_a_name_on_the_hub_without_a_network_is_one_line(monkeypatch, tmp_path, capsys):
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    required = hub.required
    fake = Hub(ConnectionError("no route\nto host"))
    monkeypatch.setattr(
        hub, "required", lambda name, *rest: fake if name == "huggingface_hub" else required(name, *rest)
    )
    assert main(["import", "stabilityai/sdxl", "run"]) == 2
    error = capsys.readouterr().err
    assert tells(error, "error: stabilityai/sdxl: ... hub ... hf download stabilityai/sdxl")
    assert error.count("\n") == 1
    fake.error = hub.required("huggingface_hub.errors", "").RepositoryNotFoundError.__new__(
        hub.required("huggingface_hub.errors", "").RepositoryNotFoundError
    )
    assert main(["import", "stabilityai/sdxl", "run"]) == 2
    assert tells(capsys.readouterr().err, "error: stabilityai/sdxl: ... check the name")
    assert main(["import", "no/such/folder", "run"]) == 2
    assert tells(capsys.readouterr().err, "error: no/such/folder: no such folder")


def test_a_network_without_an_embedding_for_no_class_is_not_guided_by_it(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    import_pipeline(saved / "ddim", "pixels")
    import_pipeline(saved / "dit", "latents")
    assert (read_record("pixels").label_dropout, read_record("latents").label_dropout) == (0.0, None)
    assert main(["sample", "pixels", "--guidance", "2", "--steps", "1"]) == 2
    assert tells(capsys.readouterr().err, "error: --guidance: ... label of every image ...")


def test_it_is_sampled_as_its_scheduler_would_unless_asked_otherwise(saved, tmp_path):
    import_pipeline(saved / "sd3", tmp_path / "flow")
    import_pipeline(saved / "dit", tmp_path / "table")
    flow, table = read_record(tmp_path / "flow"), read_record(tmp_path / "table")
    own = SamplerSettings(steps=4).sampling(flow)
    assert (own.solver, own.steps) == ("euler", 4)
    assert math.isinf(own.sigmas[0])
    assert float(own.sigmas[1]) == pytest.approx(float(GRIDS["flow"](4, **flow.sampling["arguments"])[1]))
    assert SamplerSettings(steps=4).sampling(table).sigmas[0] < 160.0  # the table's end, not EDM's 80
    assert SamplerSettings(steps=4, solver="heun", grid="karras", sigma_max=20.0).sampling(table).sigmas[0] == 20.0

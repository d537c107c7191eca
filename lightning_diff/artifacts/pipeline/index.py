"""What a diffusers folder holds, by its JSON files alone: every class against a list, nothing imported, nothing run.

A folder is a pipeline's (`model_index.json` beside a folder for each component) or one network's (`config.json` beside its
weights). A component is [library, class]; a library that is a file in the folder, as of custom pipelines, is on no list.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...foundation.errors import UserError
from ...nets.diffusers import FAMILIES, modern
from ...text.components import ENCODERS, TOKENIZERS
from . import scheduler

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"

# Pipeline -> the component that is the network, and its class.
PIPELINES = {
    "ConsistencyModelPipeline": ("unet", "UNet2DModel"),
    "DDIMPipeline": ("unet", "UNet2DModel"),
    "DDPMPipeline": ("unet", "UNet2DModel"),
    "DiTPipeline": ("transformer", "DiTTransformer2DModel"),
    "FluxPipeline": ("transformer", "FluxTransformer2DModel"),
    "LatentConsistencyModelPipeline": ("unet", "UNet2DConditionModel"),
    "PixArtAlphaPipeline": ("transformer", "PixArtTransformer2DModel"),
    "PixArtSigmaPipeline": ("transformer", "PixArtTransformer2DModel"),
    "SanaPipeline": ("transformer", "SanaTransformer2DModel"),
    "SanaSprintPipeline": ("transformer", "SanaTransformer2DModel"),
    "StableDiffusion3Pipeline": ("transformer", "SD3Transformer2DModel"),
    "StableDiffusionPipeline": ("unet", "UNet2DConditionModel"),
    "StableDiffusionXLPipeline": ("unet", "UNet2DConditionModel"),
}
NETWORKS = sorted(FAMILIES)
OF_BEFORE = "Transformer2DModel"  # the name of DiT's and PixArt's classes in older files
AUTOENCODERS = ("AutoencoderDC", "AutoencoderKL")
# Named by pipelines, and not used here.
UNUSED = (
    *("CLIPFeatureExtractor", "CLIPImageProcessor", "CLIPVisionModelWithProjection"),
    *("SiglipImageProcessor", "SiglipVisionModel"),
)
LISTS = {
    "diffusers": (*NETWORKS, OF_BEFORE, *AUTOENCODERS, *scheduler.KNOWN),
    "transformers": (*ENCODERS, *TOKENIZERS, *UNUSED),
    "stable_diffusion": ("StableDiffusionSafetyChecker",),  # likewise unused
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder holds.

    Args:
        folder: the pipeline's, or the network's own.
        pipeline: its class; None of a network alone.
        network: folder of the network.
        network_class: of `NETWORKS`.
        network_config: its config.json without the keys that diffusers adds.
        scheduler: content of scheduler_config.json with the class that the pipeline names; None without one.
        autoencoder: folder of the autoencoder; None without one.
        autoencoder_class: of `AUTOENCODERS`.
        autoencoder_config: its config.json.
        text_encoders: folders of those that there are.
        class_names: in order of label; () where there are none.
    """

    folder: Path
    pipeline: str | None = None
    network: Path
    network_class: str
    network_config: dict[str, Any]
    scheduler: dict[str, Any] | None = None
    autoencoder: Path | None = None
    autoencoder_class: str | None = None
    autoencoder_config: dict[str, Any] | None = None
    text_encoders: tuple[Path, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    def scheduler_file(self) -> Path:
        """For errors."""
        return self.folder / "scheduler" / SCHEDULER


def read(folder: Path | str) -> Contents:
    """What a folder of diffusers' holds.

    Raises:
        UserError: it has no config, names what is on no list, or is not whole.
    """
    folder = Path(folder)
    index = folder / INDEX
    if index.is_file():
        return _pipeline(index)
    if (folder / CONFIG).is_file():
        return _network(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    raise UserError(f"{folder}: has neither {INDEX} (a pipeline) nor {CONFIG} (a network); name a folder of diffusers'")


def is_one(folder: Path) -> bool:
    """Whether a path looks like a folder of diffusers'."""
    return (folder / INDEX).is_file() or (folder / CONFIG).is_file()


def _network(folder: Path) -> Contents:
    config = _json(folder / CONFIG)
    named = config.get("_class_name")
    found, given = modern(str(named), config)
    if found not in NETWORKS:
        raise UserError(
            f"{folder / CONFIG}: _class_name: {named!r} is no network that is known here; known: {', '.join(NETWORKS)}"
        )
    return Contents(
        folder=folder,
        network=folder,
        network_class=found,
        network_config=given,
    )


def _pipeline(index: Path) -> Contents:
    folder, content = index.parent, _json(index)
    pipeline = content.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in PIPELINES:
        raise UserError(
            f"{index}: _class_name: {pipeline!r} is no pipeline that is known here; known: {', '.join(PIPELINES)}"
        )
    classes = _components(content, index)
    key, wanted = PIPELINES[pipeline]
    if classes.get(key) not in (wanted, OF_BEFORE):
        raise UserError(f"{index}: {key}: {pipeline} needs a {wanted}, found {classes.get(key) or 'none'}")
    config = _json(folder / key / CONFIG)
    found, given = modern(str(named := config.get("_class_name", wanted)), config)
    if found != wanted:
        raise UserError(
            f"{folder / key / CONFIG}: _class_name: is {named!r}, and {INDEX} says {wanted}; one of them is another's"
        )
    vae = classes.get("vae")
    return Contents(
        folder=folder,
        pipeline=pipeline,
        network=folder / key,
        network_class=wanted,
        network_config=given,
        scheduler=_scheduler(folder, classes),
        autoencoder=folder / "vae" if vae else None,
        autoencoder_class=vae,
        autoencoder_config=_json(folder / "vae" / CONFIG) if vae else None,
        text_encoders=tuple(folder / name for name in sorted(classes) if name.startswith("text_encoder")),
        class_names=_class_names(content.get("id2label")),
    )


def _components(content: Mapping[str, Any], index: Path) -> dict[str, str]:
    """Class by component; those that are null are left out. UserError for a class on no list."""
    found = {}
    for name, value in content.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2:
            raise UserError(f"{index}: {name}: expected [library, class], got {value!r}")
        library, kind = value
        if library is None or kind is None:
            continue
        if kind not in LISTS.get(library, ()):
            known = (
                f"known of {library}: {', '.join(LISTS[library])}" if library in LISTS else f"known: {', '.join(LISTS)}"
            )
            raise UserError(
                f"{index}: {name}: {library}.{kind} is on no list of classes that are loaded, and no other code is run; {known}"
            )
        found[name] = str(kind)
    return found


def _scheduler(folder: Path, classes: Mapping[str, str]) -> dict[str, Any] | None:
    if "scheduler" not in classes:
        return None
    return _json(folder / "scheduler" / SCHEDULER) | {"_class_name": classes["scheduler"]}


def _class_names(labels: object) -> tuple[str, ...]:
    """`id2label` in order; () unless it names 0 .. n - 1."""
    if not isinstance(labels, dict) or sorted(labels) != sorted(map(str, range(len(labels)))):
        return ()
    return tuple(str(labels[str(number)]) for number in range(len(labels)))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; download the folder again, with every .json file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no JSON ({type(error).__name__}: {error}); download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of names to values, got a {type(content).__name__}")
    return content

"""--to diffusers: a folder that the library's own pipeline and scheduler load, and that draws the same pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...foundation.extras import required
from . import vae
from .families import Stock, stock
from .scheduler import Scheduler, scheduler
from .source import Source
from .target import Written

INDEX, SAMPLING = "model_index.json", "sampling.json"
STEPS = 25  # of a denoiser's example call; divides the usual tables of 1,000
Parts = dict[str, tuple[str | None, str | None]]  # component -> (library, class)


def refuse(source: Source) -> None:
    """UserError where no pipeline runs the network as it was trained, or the library is missing."""
    required("diffusers", "export: --to diffusers")
    made = stock(source)
    scheduler(source, made)
    vae.refuse(source.autoencoder, made)


def write(source: Source, folder: Path) -> Written:
    """Write the pipeline: network, scheduler, autoencoder, text encoders, index; and how to sample in `sampling.json`."""
    library = required("diffusers", "export: --to diffusers")
    made = stock(source)
    chosen = scheduler(source, made)
    source.net.model.save_pretrained(folder / made.network, safe_serialization=True)  # type: ignore[operator, union-attr]
    _change(folder / made.network / "config.json", chosen.network)
    getattr(library, chosen.name)(**chosen.config).save_pretrained(folder / "scheduler")
    parts: Parts = dict.fromkeys((*made.text, *made.unused), (None, None))
    parts[made.network] = ("diffusers", type(source.net.model).__name__)
    parts["scheduler"] = ("diffusers", chosen.name)
    if made.vae is not None:
        parts[made.vae] = vae.write(source.autoencoder, folder / made.vae)
    if source.text is not None and made.text:
        parts |= source.text.save(folder)
    index = {
        "_class_name": made.pipeline,
        "_diffusers_version": library.__version__,
        **made.options,
        **_labels(source, made),
    }
    (folder / INDEX).write_text(json.dumps(index | {k: list(v) for k, v in sorted(parts.items())}, indent=2) + "\n")
    _without_paths(folder)
    call = _call(source, made, chosen)
    (folder / SAMPLING).write_text(json.dumps(call, indent=2) + "\n")
    missing = [name for name, (kind, _) in parts.items() if kind is None and name not in made.optional]
    return Written(
        said=f"{made.pipeline} with {chosen.name}",
        facts={"pipeline": made.pipeline, "scheduler": chosen.name},
        library="diffusers",
        loading=_loading(source, made, call, missing),
        notes=_notes(source, made, chosen, parts, call),
    )


def _change(path: Path, values: Mapping[str, Any]) -> None:
    """In a file of JSON."""
    known = json.loads(path.read_text(encoding="utf-8"))
    if any(known.get(name) != value for name, value in values.items()):
        path.write_text(json.dumps(known | values, indent=2) + "\n", encoding="utf-8")


def _labels(source: Source, made: Stock) -> dict[str, Any]:
    """Names of classes, where the pipeline knows them."""
    names = source.record.class_names
    return (
        {"id2label": {str(i): name for i, name in enumerate(names)}} if names and made.pipeline == "DiTPipeline" else {}
    )


def _call(source: Source, made: Stock, chosen: Scheduler) -> dict[str, Any]:
    """`sampling.json`: arguments of the pipeline's call, what latents start with, and the grid in noise levels."""
    solver, sigmas = source.grid
    arguments: dict[str, Any] = {}
    is_asked = source.schedule is not None or source.record.kind == "consistency" or chosen.needs_grid
    if chosen.grid is not None and is_asked:
        arguments = chosen.grid(sigmas)
    is_given = bool(arguments)
    if not is_given:
        steps = len(sigmas) - 1
        fits = chosen.name != "DDIMScheduler" or chosen.config["num_train_timesteps"] % steps == 0
        arguments["num_inference_steps"] = steps if is_asked and fits else STEPS
    elif made.pipeline == "ConsistencyModelPipeline":
        arguments["num_inference_steps"] = None  # which is 1 there where nobody says
    if made.text:
        arguments |= {"guidance_scale": 1.0}
        arguments |= {} if source.text is None else dict(source.text.call_arguments())
        side = source.pixels(made.factor)
        arguments |= {"height": side[0], "width": side[1]}
    if made.pipeline.startswith(("Sana", "PixArt")):
        arguments["use_resolution_binning"] = False
    if made.vae is not None and source.autoencoder is None:
        arguments["output_type"] = "latent"
    start = chosen.start(sigmas[0] if is_given else chosen.first)
    return {"arguments": arguments, "start": start, "solver": solver, "sigmas": sigmas, "note": chosen.note}


def _loading(source: Source, made: Stock, call: Mapping[str, Any], missing: list[str]) -> list[str]:
    nothing = "".join(f", {name}=None" for name in sorted(missing))
    how = ['json.load(open("sampling.json"))["arguments"]']
    if made.text and source.text is not None:
        given = 'prompt="..."'
    elif made.text:
        names = source.net.condition_shapes
        given = ", ".join(f"{made.inputs[name]}=..." for name in names if name in made.inputs)  # type: ignore[union-attr]
    elif made.pipeline == "DiTPipeline" or source.record.num_classes:
        given = "class_labels=0" if made.pipeline != "DiTPipeline" else "class_labels=[0], guidance_scale=1.0"
    else:
        given = "batch_size=4"
    return [
        "import json",
        f"from diffusers import {made.pipeline}",
        f'pipeline = {made.pipeline}.from_pretrained("."{nothing})  # this folder',
        f"images = pipeline({given}, **{how[0]}).images",
    ]


def _notes(source: Source, made: Stock, chosen: Scheduler, parts: Parts, call: Mapping[str, Any]) -> list[str]:
    notes = [f"Scheduler: {chosen.name}; {chosen.note}."]
    if (start := call["start"]) != 1:
        notes.append(f"The same picture as lightning_diff draws of some noise comes of latents={start:.6g} * noise.")
    if made.vae is not None and parts[made.vae][0] is None:
        what = (
            "x0 itself, unpacked by `FluxPipeline._unpack_latents`" if made.pipeline == "FluxPipeline" else "x0 itself"
        )
        notes.append(
            f'There is no autoencoder: with output_type="latent" the pipeline returns {what}; height and width are in its units.'
        )
    if made.text and source.text is None:
        notes.append("There is no text encoder: the pipeline takes embeddings.")
    if chosen.grid is None and source.schedule is not None:
        notes.append(f"The grid that was found for this model, {SAMPLING}, cannot be given to this pipeline.")
    return notes


def _without_paths(folder: Path) -> None:
    """Configurations remember where they were read from, which is nobody's business."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "_name_or_path" in content:
            content.pop("_name_or_path")
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

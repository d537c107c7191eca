"""What is exported: a denoiser with its record, and what of its run the targets and the model card tell."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...artifacts import ModelRecord, checkpoints, load_denoiser, load_schedule, read_record
from ...artifacts.autoencoder import autoencoder_of
from ...artifacts.conditions import TrainedWith
from ...artifacts.model import sampling_of
from ...artifacts.schedule import Schedule
from ...autoencoders import Autoencoder
from ...denoiser import Denoiser
from ...foundation.binding import bind, construct
from ...foundation.errors import UserError
from ...nets import lora
from ...text import TextEncoder
from ..named import home
from ..sampler_settings import SamplerSettings
from .checkpoint import restored


@dataclass(frozen=True)
class Source:
    """A model that is being exported.

    Args:
        folder: of the run or model.
        record: what its `model.json` says, or would say.
        denoiser: in eval mode, adapters merged into the weights.
        state: of the network as it was trained, adapters beside the weights.
    """

    folder: Path
    record: ModelRecord
    denoiser: Denoiser
    state: Mapping[str, torch.Tensor]

    @property
    def net(self) -> nn.Module:
        return self.denoiser.net

    @property
    def network_name(self) -> str:
        """Of the class, for messages and cards."""
        return str(getattr(self.net, "class_name", type(self.net).__name__))

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """What the model's latents are decoded by; None where it works on its data as they are."""
        return autoencoder_of(self.record, home(self.folder))

    @cached_property
    def text(self) -> TextEncoder | None:
        """What encodes the model's prompts; None where it is conditioned on no text."""
        node = self.record.text
        return None if node is None else construct(bind(dict(node), TextEncoder, "text"))

    def pixels(self, factor: int) -> tuple[int, int]:
        """Height and width as a pipeline takes them, which is `factor` pixels for a latent where there is no autoencoder."""
        if self.autoencoder is not None:
            _, height, width = self.autoencoder.image_shape(self.record.shape)
            return height, width
        return factor * self.record.shape[1], factor * self.record.shape[2]

    @cached_property
    def schedule(self) -> Schedule | None:
        """The time grid that was found for the run; None where there is none."""
        with suppress(UserError):
            return load_schedule(home(self.folder))
        return None

    @cached_property
    def grid(self) -> tuple[str, list[float]]:
        """Solver and noise levels: those found for the run, or what suits the model."""
        if self.schedule is not None:
            return self.schedule.solver, self.schedule.sigmas
        chosen = SamplerSettings().sampling(self.record)
        return chosen.solver, chosen.sigmas.tolist()  # type: ignore[union-attr]  # no policy without a file


def of_run(
    path: Path, *, profile: str | None = None, sigma_rel: float | None = None, images: int | None = None
) -> Source:
    """The model of a run's newest checkpoint, or of a folder or file that holds a model alone.

    Args:
        path: run folder, model folder or model file.
        profile, sigma_rel, images: the average, see `checkpoint.restored`.

    Raises:
        UserError: there is no model, or an average is asked for where there is no checkpoint.
    """
    folder = home(path)
    asked = profile is not None or sigma_rel is not None or images is not None
    if not asked and (path.is_file() or checkpoints.newest(folder / "checkpoints") is None):
        denoiser = load_denoiser(path)
        return Source(path, read_record(path), denoiser, denoiser.net.state_dict())
    found = restored(folder, profile=profile, sigma_rel=sigma_rel, images=images)
    facts = dict(found.facts)
    trained_with: TrainedWith = facts.pop("trained_with")
    facts["shape"], facts["class_names"] = tuple(facts["shape"]), tuple(facts["class_names"])
    trained = found.denoiser
    record = ModelRecord(
        sigma_data=trained.sigma_data,
        time=trained.time,
        kind=trained.kind,
        prediction=trained.prediction,
        bounds=trained.bounds,
        **_found(folder),
        sampling=sampling_of(trained),
        sha256="",
        **facts,
        **asdict(trained_with),
    )
    state = trained.net.state_dict()
    return Source(folder, record, trained.around(_plain(trained.net, state, record)).eval(), state)


def _plain(net: nn.Module, state: Mapping[str, torch.Tensor], record: ModelRecord) -> nn.Module:
    """The network without adapters."""
    merged = lora.merged(state)
    if merged.keys() == state.keys():
        return net
    with torch.random.fork_rng(devices=[]):
        plain: nn.Module = construct(bind(record.net, nn.Module, "net"))
    plain.load_state_dict(merged)
    return plain


def _found(folder: Path) -> dict[str, Any]:
    """Noise levels of a consistency model's steps, where they were searched."""
    with suppress(UserError):
        record = read_record(folder)
        return {"levels": record.levels, "starts": record.starts}
    return {}

"""A trained model at hand, in a notebook or a program: `lightning_diff.load("runs/digits_edm").sample(16)`."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from pathlib import Path

from jaxtyping import Float32, Int64
from PIL import Image
from torch import Tensor

from ..artifacts import ModelRecord, pictures
from ..autoencoders import Autoencoder
from ..denoiser import Denoiser
from ..foundation.errors import UserError
from ..text import PromptList, read_prompts
from . import trained
from .prompts import Shown, given
from .sample import draw
from .sampler_settings import SamplerSettings

Labels = str | int | Sequence[int | str] | Int64[Tensor, " labels"] | None


class Model:
    """A trained model and its weights. In a notebook it shows the samples that it drew last.

    Args:
        run: run folder, name of one in runs/, or model file.
        device: a name of torch's, or auto, which takes a GPU if there is one.

    Attributes:
        denoiser: an ordinary module: `denoiser(x, sigma, label)` estimates the clean image.
        record: what `model.json` says: shape, num_classes, and so on.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """

    def __init__(self, run: Path | str, device: str = "auto"):
        self._trained = trained.model(Path(run))
        self.denoiser: Denoiser = self._trained.load(device)
        self._device = device
        self._last: tuple[Float32[Tensor, "n ..."], Shown] | None = None

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """What makes images of a model of latents' samples; None where they are what they are."""
        return self._trained.autoencoder()

    @property
    def path(self) -> Path:
        """The run folder or model file."""
        return self._trained.path

    @property
    def record(self) -> ModelRecord:
        """What `model.json` says."""
        return self._trained.record

    def sample(
        self,
        n: int = 16,
        *,
        labels: Labels = "all",
        prompts: Sequence[str] | str | Path | None = None,
        steps: int | None = None,
        solver: str | None = None,
        grid: str | None = None,
        levels: Sequence[float] | None = None,
        schedule: Path | str | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        churn: float = 0.0,
        guidance: float = 1.0,
        guide: Path | str | None = None,
        interval: tuple[float, float] = (0.0, math.inf),
        seed: int = 0,
        batch: int = 256,
        latents: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Float32[Tensor, "n ..."]:
        """Draw samples, the same ones for the same seed, and the same that `lightning-diff sample` draws.

        Args:
            n: how many.
            labels: classes, cycled through, as a number, several, or "0,1,2"; "all", or None for samples without a label.
            prompts: of a text-conditional model, cycled through: one, several, or a `Path` of a file (see `text.read_prompts`);
                None for those of its record.
            steps, solver, grid, levels, schedule, sigma_min, sigma_max, churn, guidance, guide, interval, seed, batch: see
                `SamplerSettings`; what is None suits the model.
            latents: of a model of latents, keep them, and decode nothing.
            size: height and width in pixels, of a network that takes others than it was built for; None for the model's own.

        Returns:
            (n, ...) float32 on the CPU; images in about [-1, 1], neither clipped nor rounded.

        Raises:
            UserError: settings that do not go together or not with this model.
        """
        settings = SamplerSettings(
            solver=solver,
            steps=steps,
            grid=grid,
            levels=None if levels is None else tuple(levels),
            schedule=None if schedule is None else Path(schedule),
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            churn=churn,
            guidance=guidance,
            guide=None if guide is None else Path(guide),
            interval=interval,
            seed=seed,
            batch=batch,
            device=self._device,
        )
        with _arguments_named():
            autoencoder = None if latents else self.autoencoder
            told = _prompts(prompts)
            drawn = draw(
                self._trained,
                settings,
                n,
                _words(labels),
                told,
                size=size,
                denoiser=self.denoiser,
                autoencoder=autoencoder,
            )
        self._last = drawn.samples, drawn.asked.shown(n)
        return drawn.samples

    def grid(self, samples: Float32[Tensor, "n c h w"] | None = None, columns: int | None = None) -> Image.Image:
        """A picture of samples, which a notebook shows.

        Args:
            samples: images in [-1, 1]; None for those that were drawn last, or 16 if none were.
            columns: images in a row; None for a column for each class, or about as many as rows.

        Raises:
            UserError: the samples are no grey or RGB images.
        """
        if samples is None and self._last is None:
            self.sample()
        shown = Shown(columns=None, column_names=[], captions=[])
        if samples is None:
            assert self._last is not None
            samples, shown = self._last
        if not _are_images(samples):
            raise UserError(f"grid: draws grey or RGB images, not samples of shape {tuple(samples.shape[1:])}")
        if columns is not None and columns != shown["columns"]:
            shown = Shown(columns=columns, column_names=[], captions=shown["captions"])
        return pictures.grid(samples, **shown)

    def _repr_png_(self) -> bytes | None:
        """For Jupyter: the samples drawn last; None, and then the text, where there are none or no pictures."""
        if self._last is None or not _are_images(self._last[0]):
            return None
        file = BytesIO()
        self.grid().save(file, "PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        record = self.record
        classes = f", {record.num_classes} classes" if record.num_classes else ""
        weights = "weights of the last step" if record.ema == "none" else f"averaged weights ({record.ema})"
        what = f"{record.kind}, shape {tuple(record.shape)}{classes}, {record.images:,} images, {weights}"
        return f"Model({str(self.path)!r}: {what})"


def load(run: Path | str, device: str = "auto") -> Model:
    """The trained model of a run, ready to sample from; for arguments and errors see `Model`."""
    return Model(run, device)


def _prompts(prompts: Sequence[str] | str | Path | None) -> PromptList | None:
    if prompts is None:
        return None
    if isinstance(prompts, Path):
        return read_prompts(prompts)
    return given(None, [prompts] if isinstance(prompts, str) else prompts)


def _words(labels: Labels) -> str:
    """As the command line has it."""
    if labels is None:
        return "none"
    if isinstance(labels, Tensor):
        labels = labels.flatten().tolist()
    if isinstance(labels, str | int):
        return str(labels)
    if not len(labels):
        raise UserError("labels: there are none; give classes, 'all' or None")
    return ",".join(map(str, labels))


def _are_images(samples: Tensor) -> bool:
    return samples.ndim == 4 and samples.shape[1] in (1, 3) and len(samples) > 0


@contextmanager
def _arguments_named() -> Iterator[None]:
    """Errors in terms of arguments: `--sigma-min` is `sigma_min` here."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), str(error))
        raise UserError(text) from error

"""Averages of the trainable weights, kept while training and swapped in where they are wanted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from .. import ema
from ..artifacts import ema_snapshots
from ..foundation.errors import UserError
from ..modules.base import CountedModule
from ..modules.compiling import as_compile
from ..modules.lightning_internals import State, callbacks
from ..modules.sharding import whole_tensor

DEFAULT_HALF_LIFE = 500_000  # images: EDM's, for CIFAR-10


class EMA(Callback):
    """Named averages of the trainable parameters of `module.denoiser.net`; never of its buffers or another network.

    Each optimiser step updates every average once, by the images that `module.images_seen` says it consumed. The
    averages are float32 whatever the network's precision, travel in the checkpoint, and resume bit for bit. The
    network itself holds the raw weights at all times, except inside `with ema.swapped(module):`. Where the EMA stands
    in the list of callbacks makes no difference: the first use brings the averages up to date.

    Args:
        profiles: how fast each named average forgets; the first is the one that others use by default.
            Default: one average "ema" with EDM's half-life for CIFAR-10, 500,000 images, and its ramp-up; shorter
            trainings want a shorter one.
        snapshot_every: images between stored snapshots, for `ema_snapshots.reconstruct_from_folder`, in
            `<run folder>/ema/`, also written at the end of training. A run that goes back (it resumes from before some,
            or starts anew) deletes those that lie ahead of it. EDM2: 8 million. Default: none are stored.
        snapshot_sigma_rels: relative widths of the power-function averages that are tracked, and stored, for this
            (EDM2: 0.05, 0.10). They can be swapped in as "sigma_rel=0.05" and so on.
        snapshot_dtype: float16 halves the files; its rounding is multiplied by the fit, about 30 times at widths of
            0.02.
        compile: compile the update of all averages into one; equal up to rounding. That of a sharded network stays as it is.
    """

    ALONE: ClassVar[str] = "keep the averages"
    # One average more or one fewer is harmless; another width under the same name is not.
    RESUME_MUST_KEEP: ClassVar[tuple[str, ...]] = ("profiles.*.*",)
    RESUME_DEFAULTS: ClassVar[dict[str, object]] = {
        "profiles": {"ema": {"_target_": "lightning_diff.ema.HalfLife", "images": DEFAULT_HALF_LIFE}}
    }

    def __init__(
        self,
        profiles: Mapping[str, ema.Profile] | None = None,
        snapshot_every: int | None = None,
        snapshot_sigma_rels: Sequence[float] = (0.05, 0.10),
        snapshot_dtype: Literal["float32", "float16"] = "float32",
        compile: bool = False,
    ):
        self.profiles: dict[str, ema.Profile] = (
            {"ema": ema.HalfLife(DEFAULT_HALF_LIFE)} if profiles is None else dict(profiles)
        )
        if not self.profiles:
            raise ValueError("EMA: profiles is empty; leave it out for the default average")
        self.snapshot_every, self.snapshot_dtype = snapshot_every, snapshot_dtype
        self.snapshot_profiles: dict[str, ema.PowerFunction] = {}
        if snapshot_every is not None:
            if snapshot_every <= 0 or not snapshot_sigma_rels:
                raise ValueError("EMA: snapshot_every must be positive and snapshot_sigma_rels not empty")
            self.snapshot_profiles = {f"sigma_rel={s:g}": ema.PowerFunction(s) for s in snapshot_sigma_rels}
            if clash := self.profiles.keys() & self.snapshot_profiles.keys():
                raise ValueError(f"EMA: the profile name {sorted(clash)[0]!r} is taken by the snapshots")
            self.profiles |= self.snapshot_profiles
        self.averages: dict[str, dict[str, Tensor]] = {}  # by profile, then by parameter name
        self.images = 0  # images_seen at the last update
        self.compile = compile
        self._update_all: Callable[..., None] | None = None  # compiled
        self.swapped_in: str | None = None  # the profile whose average is in the network just now
        self._snapshot_images = 0
        self._module: LightningModule | None = None
        self._weights: dict[str, Tensor] = {}  # looked up once: walking the modules costs more than averaging

    @property
    def state_key(self) -> str:
        return "lightning_diff.EMA"

    @property
    def default_profile(self) -> str:
        """The first profile's name."""
        return next(iter(self.profiles))

    @contextmanager
    def swapped(self, module: LightningModule, profile: str | None = None) -> Iterator[str | None]:
        """The network with averaged weights inside `with ema.swapped(module) as name:`; the raw ones always come back.

        Gives the name of the average that is in place, or None where there is none yet (before training, in the
        sanity check, or when a checkpoint has no average of that name): the raw weights then stay, and the log says
        so. Checkpoints are refused inside.

        Args:
            module: has the network as `module.denoiser.net`.
            profile: name of the average; the first by default.

        Raises:
            UserError: no profile of that name, or another average is already in place.
        """
        profile = self.default_profile if profile is None else profile
        if profile not in self.profiles:
            raise UserError(f"EMA: no profile {profile!r}; there are {', '.join(self.profiles)}")
        if self.swapped_in is not None:
            raise UserError(f"EMA: the average {self.swapped_in!r} is in the network already; leave its block first")
        self._advance()
        if profile not in self.averages:
            rank_zero_info(f"EMA: no average {profile!r} yet, the raw weights are used")
            yield None
            return
        weights = _trainable(module)
        average = self.averages[profile] = _placed(self.averages[profile], weights)
        raw = [weight.detach().clone() for weight in weights.values()]
        self.swapped_in = profile
        try:
            _overwrite(weights, list(average.values()))
            yield profile
        finally:
            _overwrite(weights, raw)
            self.swapped_in = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
            # Both replace the parameters by flat shards that only this process knows how to read.
            name = type(trainer.strategy).__name__
            raise UserError(f"EMA cannot average under {name}; use trainer.strategy=ddp or model_parallel (FSDP2)")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.averages and self.images != pl_module.images_seen:
            raise UserError(
                f"EMA: the averages stand at {self.images} images and the network at {pl_module.images_seen}; "
                "give each training an EMA of its own, and resume both from one checkpoint"
            )
        self._module, self._weights, self.images = pl_module, _trainable(pl_module), _images_seen(pl_module)
        if self.images and (missing := [name for name in self.profiles if name not in self.averages]):
            rank_zero_warn(
                f"EMA: the checkpoint has no average {', '.join(missing)}; "
                f"it starts from the raw weights at {self.images} images"
            )
        self.averages = {
            name: _placed(self.averages[name], self._weights) if name in self.averages else ema.start(self._weights)
            for name in self.profiles
        }
        is_sharded = any(isinstance(weight, DTensor) for weight in self._weights.values())
        how = as_compile(self.compile and not is_sharded)
        self._update_all = (
            how.function(ema.update_all_) if how and how.serves(pl_module.device, "EMA: compile") else None
        )
        if self.snapshot_every and trainer.is_global_zero:
            ema_snapshots.delete_after(_folder(trainer), self.images)
        self._snapshot_if_due(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self._advance()
        self._snapshot_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._advance()
        if self.snapshot_every and self.images > self._snapshot_images:
            self._snapshot(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: State) -> None:
        if self.swapped_in is not None:
            raise UserError(
                f"no checkpoint while the average {self.swapped_in!r} is in the network: it would be saved as the raw "
                "weights; save outside the `swapped` block"
            )

    def state_dict(self) -> State:
        self._advance()  # an exception may have come between the optimiser's step and on_train_batch_end
        averages = {name: dict(average) for name, average in self.averages.items()}  # in shards where the network is
        return {"images": self.images, "snapshot_images": self._snapshot_images, "averages": averages}

    def load_state_dict(self, state_dict: State) -> None:
        self.images, self._snapshot_images = state_dict["images"], state_dict["snapshot_images"]
        averages = state_dict["averages"]  # copied below, because they will change in place
        self.averages = {name: ema.start(averages[name]) for name in self.profiles if name in averages}

    def _advance(self) -> None:
        """Bring the averages up to `images_seen`; does nothing if they are."""
        if self._module is None or self.swapped_in is not None:
            return
        seen = _images_seen(self._module)
        if seen > self.images:
            self._update({name: profile.decay(seen, seen - self.images) for name, profile in self.profiles.items()})
            self.images = seen

    def _update(self, betas: Mapping[str, float]) -> None:
        if self._update_all is None:
            for name, beta in betas.items():
                ema.update_(self.averages[name], self._weights, beta)
        elif self._weights:
            device = next(iter(self._weights.values())).device
            as_data = torch.tensor(list(betas.values()), dtype=torch.float32, device=device)
            self._update_all([self.averages[name] for name in betas], self._weights, as_data)

    def _snapshot_if_due(self, trainer: Trainer) -> None:
        if self.snapshot_every and self.images // self.snapshot_every > self._snapshot_images // self.snapshot_every:
            self._snapshot(trainer)

    def _snapshot(self, trainer: Trainer) -> None:
        self._snapshot_images = self.images
        for name, profile in self.snapshot_profiles.items():
            # Outside the condition, because every process has a part in gathering; one tensor at a time.
            average = {}
            for key, value in self.averages[name].items():
                whole = whole_tensor(value)
                if trainer.is_global_zero:
                    average[key] = whole.cpu()
            if trainer.is_global_zero:
                folder, sigma_rel, dtype = _folder(trainer), profile.sigma_rel, self.snapshot_dtype
                ema_snapshots.save_snapshot(folder, average, images=self.images, sigma_rel=sigma_rel, dtype=dtype)


def find(trainer: Trainer) -> EMA | None:
    """The trainer's EMA, for callbacks that look at averaged weights; None if it has none."""
    return next((callback for callback in callbacks(trainer) if isinstance(callback, EMA)), None)


def averaged(trainer: Trainer, module: LightningModule) -> AbstractContextManager[str | None]:
    """`with averaged(trainer, module) as name:` the default average is in the network, or the raw weights if there is none."""
    ema = find(trainer)
    return nullcontext() if ema is None else ema.swapped(module)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "ema"


def _images_seen(module: LightningModule) -> int:
    return cast(CountedModule, module).images_seen


def _trainable(module: LightningModule) -> dict[str, Tensor]:
    net = module.get_submodule("denoiser.net")
    return {name: weight for name, weight in net.named_parameters() if weight.requires_grad}


def _placed(average: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The average laid out as the weights are: device, memory format, shards. Tensors that are so already are kept."""
    for name in [*weights, *average]:
        here, there = (tuple(d[name].shape) if name in d else None for d in (weights, average))
        if here != there:
            raise UserError(f"EMA: the average is of another network: {name} is {there} there and {here} here")
    return {name: _placed_one(average[name], weight) for name, weight in weights.items()}


def _placed_one(value: Tensor, weight: Tensor) -> Tensor:
    if (type(value), value.device, value.stride()) == (type(weight.data), weight.device, weight.stride()):
        return value
    with torch.inference_mode(False), torch.no_grad():  # under inference mode, the copy could never be updated
        if isinstance(weight, DTensor):
            return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
        return torch.empty_like(weight, dtype=value.dtype).copy_(value)


@torch.no_grad()
def _overwrite(weights: dict[str, Tensor], values: list[Tensor]) -> None:
    for weight, value in zip(weights.values(), values, strict=True):
        weight.copy_(value)
    torch.clear_autocast_cache()  # a cached low-precision copy would still give the old weights' output

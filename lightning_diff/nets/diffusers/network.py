"""A network of the diffusers library, called as net(x, c_noise, label)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...condition import AnyCondition, Condition, NullCondition
from ..layers import check_input
from . import building, forward_mode
from .families import family_of
from .family import kind
from .guidance import GuidanceInput, is_of_input, start_at_zero
from .smooth_time import SmoothTime


class Diffusers(nn.Module):
    """A class of the diffusers library by name, with random weights: trained, distilled, scheduled and rewarded as our own are.

    It is called with its own time, which `denoiser.TableTime` or `denoiser.FlowTime` makes of the noise level; `FAMILIES` has
    the time and the prediction of the published weights of each class, and docs/diffusers.md the table.

    Args:
        class_name: UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel,
            FluxTransformer2DModel or SanaTransformer2DModel.
        config: arguments of the class, as its config.json has them; sample_size is the example's where it is left out.
        shape: (channels, height, width) of an example, of latents usually. All classes but DiTTransformer2DModel are called with
            other heights and widths, too, that their patches or halvings divide (images in buckets).
        condition_shapes: names and shapes, for one example, of what the data condition on; needed by classes that take a text.
        num_classes: of DiT and of a UNet2DModel with class embeddings; None for all of these. A label from there on, and None,
            is no class: DiT has an embedding for it, a UNet2DModel if num_class_embeds is larger than num_classes. Other classes
            ignore it.
        guided: take the scale of guidance as an input, which starts at zero: Flux, Sana and the conditional U-Net in the library's
            own way (guidance_embeds, time_cond_proj_dim), as their distilled pipelines do; the others by an embedding of the scale
            that is added to their time's. A configuration that has the library's input has it in any case.
        smooth_time: leave out the sinusoids of its time that turn by more than this many radians between no noise and pure
            noise, for a network that is to become a consistency model; None keeps all, up to 1,000. Not for a UNet2DModel or
            UNet2DConditionModel that embeds its time by Fourier features or a table.

    Attributes:
        model: the library's module; the state's names are "model." and its own, then the null condition's.
        config: whole, defaults filled in.
        guided: whether the scale of guidance is an input.

    Raises:
        UserError: an unknown class or argument, examples or conditions that do not fit the configuration, no library.
    """

    def __init__(
        self,
        class_name: str,
        config: Mapping[str, Any],
        shape: Sequence[int],
        condition_shapes: Mapping[str, Sequence[int]] | None = None,
        num_classes: int | None = None,
        guided: bool = False,
        smooth_time: float | None = None,
    ):
        super().__init__()
        self.family = family_of(class_name)
        self.class_name, self.shape = class_name, tuple(shape)
        if len(self.shape) != 3:
            raise self.family.wrong(f"shape must be (channels, height, width), got {self.shape}")
        self.config = building.completed(self.family, config, self.shape)
        building.refuse_unfit_shape(self.family, self.config, self.shape)
        building.refuse_unfit_condition(self.family, self.config, condition_shapes or {})
        self.num_classes = self._classes(num_classes)
        is_new = guided and not self.family.takes_guidance(self.config)
        if is_new:
            self.config |= self.family.with_guidance(self.config)
        self._takes_scale = self.family.takes_guidance(self.config)
        self.guided = guided or self._takes_scale
        self.model = building.build(self.family, self.config)
        if is_new:
            start_at_zero(self.model)
        self.guidance = GuidanceInput(self.model) if self.guided and not self._takes_scale else None
        if smooth_time is not None:
            smooth = SmoothTime(self.family, self.config, self.model, smooth_time)
            self.register_load_state_dict_post_hook(smooth)
        self.condition_shapes = {name: tuple(each) for name, each in (condition_shapes or {}).items()}
        self.null = NullCondition(self.condition_shapes) if self.condition_shapes else None
        forward_mode.prepare(self.model)
        for module in self.model.modules():
            if hasattr(
                module, "dropout_prob"
            ):  # of labels, at random: which examples lose theirs is the stream's to say
                module.dropout_prob = 0.0  # type: ignore[assignment]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        c_noise: Float[Tensor, " b"],
        label: AnyCondition | None = None,
        *,
        guidance: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The network's own prediction at its own time, like x; of a learned variance nothing.

        Args:
            c_noise: its own time: an index of its table, whole or between, s or 1000 s.
            label: classes or a `Condition`; None for its null class or condition.
            guidance: scale, 1 or None for none.

        Raises:
            ValueError: no condition where none is known, one of another kind, or a scale where there is no input for one.
        """
        self._check_input(x)
        if guidance is not None and not self.guided:
            raise ValueError("this network has no input for a guidance scale; build it with guided=True")
        if self.guided and guidance is None:
            guidance = torch.ones_like(c_noise)
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]
        if self.guidance is not None:
            assert guidance is not None
            self.guidance.added = self.guidance(guidance)
        try:
            with forward_mode.attention():
                given = self._given(label, x, dtype)
                scale = guidance if self._takes_scale else None
                output = self.family.call(self.model, self.config, x.to(dtype), c_noise, given, scale)
        finally:
            if self.guidance is not None:
                self.guidance.added = None
        return output[:, : self.shape[0]].to(x.dtype)

    @property
    def null_condition(self) -> Condition | None:
        """One row; None while it is not known."""
        return None if self.null is None else self.null.row

    def keep_null_condition(self, condition: Condition) -> None:
        """Take this one row as "no condition" from now on, in checkpoints too."""
        if self.null is None:
            raise ValueError(f"{self.class_name} takes no condition")
        self.null.keep(condition)

    def with_guidance_input(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of the same network without an input for the scale as one of this network, whose input stays as it is."""
        own, called = self.state_dict(), self.family.without_guidance
        taken = {name: state[old] for name in own for old in (called(name), name) if old in state}
        kept = {name: value for name, value in own.items() if name not in taken and is_of_input(name)}
        unknown = {name: value for name, value in state.items() if name not in {*own, *map(called, own)}}
        return taken | kept | unknown

    @property
    def repeated(self) -> list[nn.Module]:
        """Its blocks, from the input to the output: what is compiled and sharded one at a time (see `nets.blocks`)."""
        return self.family.repeated(self.model)

    def _check_input(self, x: Tensor) -> None:
        """ValueError for a batch of something else, UserError for a height and width that the class does not take."""
        check_input(self.class_name, x, self.shape, multiple=1)
        if tuple(x.shape[1:]) != self.shape:
            self.family.refuse(self.config, x.shape[1:])

    def _classes(self, asked: int | None) -> int:
        rows = self.family.embeddings(self.config)
        if rows is None:
            return 0
        if asked is not None and asked > rows:
            raise self.family.wrong(f"num_classes {asked}, and its configuration has {rows}; make room for them")
        return rows if asked is None else asked

    def _given(self, label: AnyCondition | None, x: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """The conditions by name, on x's device and in the network's precision."""
        if self.family.embeddings(self.config) is not None:
            return {"class_labels": self._class_labels(label, x)}
        if self.null is None:
            return {}
        if label is None:
            if (row := self.null.row) is None:
                raise ValueError(
                    f"{self.class_name} was given no condition, and does not know its null condition; keep one "
                    "(keep_null_condition), or train it on data that have one"
                )
            label = row.expand(len(x))
        if not isinstance(label, Condition):
            raise ValueError(f"{self.class_name} takes a Condition, got {kind(label)}; give the denoiser its prompts")
        wide = torch.promote_types(dtype, torch.float32)
        return {
            name: each.to(x.device, wide if name in self.family.exact else dtype if each.is_floating_point() else None)
            for name, each in label.tensors.items()
        }

    def _class_labels(self, label: AnyCondition | None, x: Tensor) -> Tensor:
        if isinstance(label, Condition):
            raise ValueError(f"{self.class_name} takes class labels, got {kind(label)}")
        none = self.family.null_class(self.config, self.num_classes)
        if none is None:
            if label is None:
                raise ValueError(
                    f"{self.class_name} has no embedding for no class; give labels, or num_class_embeds one more than there are"
                )
            return label
        if label is None:
            return torch.full((len(x),), none, dtype=torch.int64, device=x.device)
        return torch.where(label < self.num_classes, label, none)

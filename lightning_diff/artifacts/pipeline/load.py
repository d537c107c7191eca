"""A pipeline of diffusers' as what everything here works with: denoiser, autoencoder, text encoder, and how it is sampled."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...condition import TakesCondition
from ...denoiser import Denoiser, FlowTime
from ...foundation.binding import bind, construct
from ...foundation.errors import UserError
from ...nets.diffusers import FAMILIES, building
from .. import safetensors_files
from ..model import bind_time
from ..weights import fill, refuse_unlike, undrawn
from . import hub, index, scheduler, shapes

if TYPE_CHECKING:
    from ...autoencoders import Autoencoder
    from ...text import TextEncoder

Node = dict[str, Any]
PREFIX = "model."  # before diffusers' own names in the state of `nets.Diffusers`
IMAGES, LATENTS = 0.5, 1.0  # sigma_data of images in [-1, 1], of normalised latents

# How a network alone is taken to have been trained: as the commonest models of its class.
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DiTTransformer2DModel": {"_class_name": "DDIMScheduler"},
    "FluxTransformer2DModel": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
    "PixArtTransformer2DModel": {"_class_name": "DPMSolverMultistepScheduler"},
    "SD3Transformer2DModel": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "SanaTransformer2DModel": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "UNet2DConditionModel": {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": scheduler.LATENT_START,
        "beta_end": scheduler.LATENT_END,
    },
    "UNet2DModel": {"_class_name": "DDIMScheduler"},
}


class Pipeline:
    """A folder of diffusers', each part loaded when it is first asked for.

    Args:
        contents: of the folder.
        size: height and width of the latents; None for the config's.

    Attributes:
        contents: classes, configs and folders of the parts.
        shape: (C, H, W) of what the denoiser works on.
        parametrisation: what the network predicts, its time, and how it is sampled.
        given: arguments of the network that its config has.
        config: the same with the library's defaults.
    """

    def __init__(self, contents: index.Contents, size: int | None = None):
        shapes.refuse_other_channels(contents)
        self.contents = contents
        self.shape = shapes.latent_shape(contents, size)
        self.given = _known_config(contents)
        try:
            self.config = building.completed(FAMILIES[contents.network_class], self.given, self.shape)
        except UserError as error:
            raise UserError(f"{contents.network / index.CONFIG}: {error}") from error
        self.parametrisation = scheduler.parametrisation(
            contents.scheduler or SCHEDULERS[contents.network_class],
            contents.scheduler_file if contents.scheduler else contents.network / index.CONFIG,
            flow_scale=self._flow_scale,
            tokens=shapes.image_tokens(contents, self.shape),
        )

    @property
    def _flow_scale(self) -> float:
        """Of the time that a flow network is called with; s times it."""
        clock = FAMILIES[self.contents.network_class].time(self.config)
        return clock.scale if isinstance(clock, FlowTime) else scheduler.FLOW_SCALE

    @property
    def sampling(self) -> scheduler.Sampling:
        """Solver and grid that its scheduler stands for."""
        return self.parametrisation.sampling

    @property
    def sigma_data(self) -> float:
        """Of the denoiser: the scheduler's where it says one, else that of latents, or of images in [-1, 1]."""
        known = self.parametrisation.sigma_data
        is_of_images = self.contents.network_class == "UNet2DModel" and self.contents.autoencoder is None
        return (IMAGES if is_of_images else LATENTS) if known is None else known

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The safetensors of the network."""
        return safetensors_files.find(self.contents.network)

    @cached_property
    def node(self) -> Node:
        """What builds the network, as a recipe writes it."""
        return self._node_with(self.condition_shapes)

    @cached_property
    def condition_shapes(self) -> dict[str, list[int]]:
        """Names and shapes of what the network is conditioned on beside a class, for one example; the text encoders' where there
        are any, which encode the empty prompt for it."""
        return self._shapes_by_config if self.text is None else _listed(self.text.shapes())

    @property
    def _shapes_by_config(self) -> dict[str, list[int]]:
        """The same as far as the network's config tells, for as many tokens as the pipeline takes."""
        tokens = shapes.text_tokens(self.contents)
        return _listed(FAMILIES[self.contents.network_class].condition_shapes(self.config, tokens))

    def _node_with(self, condition_shapes: dict[str, list[int]]) -> Node:
        node = {
            "_target_": "lightning_diff.nets.Diffusers",
            "class_name": self.contents.network_class,
            "config": self.given,
            "shape": list(self.shape),
        }
        return node | ({"condition_shapes": condition_shapes} if condition_shapes else {})

    @cached_property
    def denoiser(self) -> Denoiser:
        """On the CPU, in float32 and in eval mode; it knows its null condition where the folder has text encoders."""
        self.refuse_other_weights()
        built = self._built(self.node, "cpu")
        fill(built.net, [(file, PREFIX) for file in self.files], only=PREFIX)
        if self.text is not None and isinstance(built.net, TakesCondition):
            built.net.keep_null_condition(self.text.null())
        return built.eval()

    @cached_property
    def blank(self) -> Denoiser:
        """The denoiser without weights, on the meta device."""
        return self._built(self.node, "meta")

    def refuse_other_weights(self) -> None:
        """UserError that names the first weights that are missing or of another name or shape, from the files' headers alone."""
        built = self._built(self._node_with(self._shapes_by_config), "meta")  # before the text encoders are read
        own = {name: each for name, each in built.net.state_dict().items() if name.startswith(PREFIX)}
        refuse_unlike(own, safetensors_files.shapes(self.files, PREFIX, own), self.files[0])

    @cached_property
    def autoencoder(self) -> "Autoencoder | None":
        """From images to latents and back, its weights read when something is coded; None for a network of images."""
        from ...autoencoders import Diffusers

        return None if self.contents.autoencoder is None else Diffusers(self.contents.autoencoder)

    @property
    def autoencoder_node(self) -> Node | None:
        """What builds it."""
        folder = self.contents.autoencoder
        target = "lightning_diff.autoencoders.Diffusers"
        return None if folder is None else {"_target_": target, "folder": str(folder.absolute())}

    @cached_property
    def text(self) -> "TextEncoder | None":
        """From prompts to conditions, its weights read when something is encoded; None where the folder has none of it."""
        from ...text import PipelineText

        return PipelineText(self.contents.folder) if self.contents.text_encoders else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """In order of label; () where there are none."""
        return self.contents.class_names

    def _built(self, node: Node, device: str) -> Denoiser:
        known = self.parametrisation
        try:
            with undrawn(), torch.device(device):
                net = construct(bind(node, torch.nn.Module, "net"))
        except (UserError, ValueError) as error:
            raise UserError(f"{self.contents.network / index.CONFIG}: {error}") from error
        return Denoiser(net, self.sigma_data, bind_time(known.time), known.kind, known.prediction)


def load_pipeline(folder: Path | str, *, size: int | None = None) -> Pipeline:
    """A folder of diffusers', or a name on its hub: checked by its configs, its parts loaded when they are first asked for.

    Classes come from the installed library by a list, weights from safetensors; no code of the folder is run.

    Args:
        folder: of a pipeline (model_index.json), or of one network (config.json).
        size: height and width in latents, where the config says none or another one is wanted.

    Raises:
        UserError: it is not there or not whole, names what is on no list, or its parts do not go together.
    """
    return Pipeline(index.read(hub.resolve(folder)), size)


def _known_config(contents: index.Contents) -> dict[str, Any]:
    """The network's config without what files of other versions have, the installed class does not take, and asks for nothing."""
    takes = building.arguments(FAMILIES[contents.network_class])
    given = contents.network_config
    return {name: value for name, value in given.items() if name in takes or value not in (None, False)}


def _listed(given: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in given.items()}

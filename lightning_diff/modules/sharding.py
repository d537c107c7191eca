"""Training a network that is sharded over the processes: FSDP2, each holding the rows of every tensor that are its own.

Weights, gradients, optimiser state and averages of the network lie in shards; each block's weights are gathered when it runs and
given back afterwards. The examples, the noise and, up to the order of summation, the losses are those of a plain run.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..artifacts import checkpoints
from ..foundation.errors import UserError
from ..nets.blocks import blocks
from .compiling import Compile
from .lightning_internals import State, shard_over_all_processes

# By precision, the type in which a block's weights are gathered; None: their own.
GATHERED = {"32-true": None, "bf16-mixed": torch.bfloat16}


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, over all processes, with our own checkpoints (see `sharded_files`).

    The state of a run has the same names and order as a plain run's, with DTensors for tensors. So either kind of run resumes from
    the other's checkpoints, on any number of processes.

    Args:
        process_group_backend: of torch.distributed; by default nccl on GPUs, gloo on CPUs.
    """

    def __init__(self, process_group_backend: str | None = None):
        super().__init__(tensor_parallel_size=1, process_group_backend=process_group_backend)

    @property
    def mesh(self) -> DeviceMesh:
        """Of one dimension: all processes."""
        return self.device_mesh["data_parallel"]

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        shard_over_all_processes(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def lightning_module_state_dict(self) -> State:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> State:
        return (optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, object], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, object]) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def save_checkpoint(self, checkpoint: State, filepath: str | Path, storage_options: object = None) -> None:
        from ..artifacts.checkpoints import sharded  # 0.1 s: torch.distributed.checkpoint

        folder = Path(self.broadcast(str(filepath)))  # the first process's temporary name
        sharded.save(checkpoint, folder, is_first=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> State:
        path = Path(checkpoint_path)
        state: State = {**checkpoints.read(path)}
        if path.is_dir():
            from ..artifacts.checkpoints import sharded

            return sharded.filled(state, path, mesh=self.mesh)
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state["state_dict"] = {name: _share(value, own.get(name)) for name, value in state["state_dict"].items()}
        for optimizer, saved in zip(self.optimizers, state["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for index, entry in saved["state"].items():
                entry.update({name: _share(value, parameters[index]) for name, value in entry.items()})
        return state


def configure(module: LightningModule) -> None:
    """Shard a LightningModule's networks if the trainer's strategy is to; what `configure_model` calls. A second call does nothing.

    Raises:
        UserError: a precision or memory format, or another strategy of Lightning's for sharding, that is not supported.
    """
    trainer, strategy = module.trainer, module.trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy) or is_sharded(_trained(module)):
        return
    if not isinstance(strategy, ShardedStrategy):
        raise UserError(
            f"trainer.strategy: {type(strategy).__name__} has another checkpoint format; use model_parallel"
        )
    if trainer.precision not in GATHERED:
        raise UserError(
            f"trainer.precision: {trainer.precision} does not go with shards; use one of {', '.join(GATHERED)}"
        )
    if getattr(module, "memory_format", None) is torch.channels_last:
        raise UserError("model.channels_last: weights in shards are laid out in order; leave it out")
    compiled: Compile | None = getattr(module, "compiled", None)
    if compiled is not None and compiled.replays_graphs:
        raise UserError(
            f"model.compile.mode: {compiled.mode} replays CUDA graphs, and shards are gathered elsewhere each time; leave it out"
        )
    shard(module, strategy.mesh, strategy.root_device, gathered=GATHERED[trainer.precision], compiled=compiled)


def shard(
    module: nn.Module,
    mesh: DeviceMesh,
    device: torch.device,
    *,
    gathered: torch.dtype | None = None,
    compiled: Compile | None = None,
) -> None:
    """Shard a module's networks over a mesh, in place, with the values that they have on the first process.

    Each member of a ModuleList is gathered by itself, and then what is left of the network. On processes other than the first,
    tensors may be on the meta device: they are never held whole there, except one at a time while its rows are handed out.

    Args:
        module: has the network as `denoiser.net`; other children with trainable weights are sharded too (`networks`).
        mesh: of one dimension.
        device: of this process.
        gathered: type in which a block's weights are gathered and used, under autocast; None for their own. Gradients are summed
            in float32. What is outside the blocks keeps its own type.
        compiled: how each block is compiled; None for not at all.

    Raises:
        UserError: a trainable weight without dimensions, or a tensor on the meta device that is neither parameter nor buffer.
    """
    whole = {name: tensor.detach() for name, tensor in _tensors(module)}
    for name, parameter in module.named_parameters():
        if parameter.ndim == 0:
            raise UserError(
                f"trainer.strategy: {name} is a single number, which cannot be sharded; give it one dimension"
            )
    for network in networks(module):
        policy = MixedPrecisionPolicy(gathered, gathered and torch.float32, cast_forward_inputs=False)
        for block in blocks(network):
            if compiled is not None:
                compiled.part(block)
            fully_shard(block, mesh=mesh, mp_policy=policy)
        # Given back after every forward pass, or `parameters()` would be whole tensors after one without a backward pass.
        fully_shard(network, mesh=mesh, reshard_after_forward=True)
        if hasattr(network, "penalty"):  # of a weighting, which uses its weights outside forward
            register_fsdp_forward_method(network, "penalty")
        if gathered is not None:
            _run_under_autocast(network, device.type, gathered)
        if any(tensor.is_meta for _, tensor in _tensors(network)):
            network.to_empty(device=device)
            _refuse_unregistered(network)
    if mesh.size() > 1:
        _hand_out(module, whole, mesh, device)


def is_sharded(network: nn.Module) -> bool:
    return isinstance(network, FSDPModule)


def clip_grad_norm_(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` for parameters that may be sharded; returns the norm over all processes before clipping."""
    norm = whole_tensor(nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None]))
    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def whole_tensor(value: Tensor) -> Tensor:
    """All rows of a tensor that may be sharded; then every process has to take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local_tensor(value: Tensor) -> Tensor:
    """What this process holds of a tensor that may be sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole_state(network: nn.Module, keep: bool) -> dict[str, Tensor]:
    """A copy of a network's state, on the CPU; of a sharded one every process takes part, and those not to keep it get {}."""
    gathered = {}
    for name, value in network.state_dict().items():
        whole = whole_tensor(value.detach())
        if keep:
            gathered[name] = whole.to("cpu", copy=True)
    return gathered


def _share(value: object, template: Tensor | None) -> object:
    """This process's rows of a whole tensor, as a DTensor like the template; anything else as it is."""
    if not isinstance(template, DTensor) or not isinstance(value, Tensor) or value.shape != template.shape:
        return value
    value = value.contiguous().to(template.device)
    return distribute_tensor(value, template.device_mesh, template.placements, src_data_rank=None)


def networks(module: nn.Module) -> Iterator[nn.Module]:
    """What is sharded, each by itself: the network, other children with trainable weights, and of a critic its network."""
    yield _trained(module)
    for child in module.children():
        if child is not module.get_submodule("denoiser") and any(
            parameter.requires_grad for parameter in child.parameters()
        ):
            yield _trained(child) if isinstance(getattr(child, "denoiser", None), nn.Module) else child


def _trained(module: nn.Module) -> nn.Module:
    return module.get_submodule("denoiser.net")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _hand_out(module: nn.Module, whole: dict[str, Tensor], mesh: DeviceMesh, device: torch.device) -> None:
    """The first process's values to all, one tensor at a time."""
    for name, tensor in _tensors(module):
        value = tensor.detach()
        if not isinstance(value, DTensor):
            value = value.to(device)
            distributed.broadcast(value, 0)
            tensor.detach().copy_(value)
            continue
        source = (
            whole[name].to(device)
            if mesh.get_rank() == 0
            else torch.empty(value.shape, dtype=value.dtype, device=device)
        )
        value.to_local().copy_(distribute_tensor(source, mesh, value.placements).to_local())


def _run_under_autocast(network: nn.Module, device_type: str, dtype: torch.dtype) -> None:
    """Wherever it is called from, pictures and figures included: weights gathered in 16 bits meet no others."""
    forward = network.forward

    def under_autocast(*args: Tensor | None, **kwargs: Tensor | None) -> Tensor:
        # Without the cache, which would keep the casts of weights that are given back; Lightning's autocast has none either.
        with torch.autocast(device_type, dtype, cache_enabled=False):
            return cast(Tensor, forward(*args, **kwargs))

    network.forward = under_autocast
    network.autocast_dtype = dtype  # type: ignore[assignment]  # for who says in which precision a figure was measured


def _refuse_unregistered(network: nn.Module) -> None:
    for path, part in network.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise UserError(
                    f"model.net: {path}.{name} is a tensor but no buffer; register_buffer(..., persistent=False) makes it one"
                )

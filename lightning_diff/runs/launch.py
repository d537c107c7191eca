"""Which processes train: who starts them, which of them is the first, and where they meet.

The number of processes is the recipe's, trainer.devices x trainer.num_nodes. Variables of the environment say which of these a
process is only where they can: RANK and its like are often left over from another program.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import (
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch import distributed

from ..foundation import parent
from ..foundation.errors import UserError
from ..foundation.processes import take_rank
from ..modules import lightning_internals as internals
from .console import say
from .meeting import OF_TORCHRUN, meeting, number
from .recipe import Node

BY_HAND = ("LOCAL_RANK", "MASTER_PORT", "WORLD_SIZE")  # what a program that starts all processes itself has to set


def choose_environment(options: Node) -> None:
    """Add to the Trainer's options who starts the processes, unless the recipe does.

    Raises:
        UserError: a launcher has started another number of processes than the recipe wants.
    """
    given = options.get("plugins") or []
    plugins = list(given) if isinstance(given, (list, tuple)) else [given]
    if any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        return
    if getattr(options.get("strategy"), "cluster_environment", None) is not None:
        return
    here, nodes = internals.devices_and_nodes(options)
    environment = _environment(here, nodes)
    if environment is not None:
        options["plugins"] = [*plugins, environment]


def _environment(here: int, nodes: int) -> ClusterEnvironment | None:
    """None for what Lightning finds by itself and nobody here has tried."""
    wanted = f"trainer.devices={here} and trainer.num_nodes={nodes}"
    if TorchElasticEnvironment.detect():
        started = number("WORLD_SIZE", 1)
        if started != here * nodes:
            raise UserError(
                f"trainer: {wanted} make {here * nodes} process(es), and torchrun started {started} (WORLD_SIZE); give both "
                "the same number, or unset TORCHELASTIC_RUN_ID where torchrun has started none"
            )
        if started > 1:
            number("RANK", None, started)
            number("LOCAL_RANK", None, here)
            return TorchElasticEnvironment()
    if here * nodes == 1:
        return OwnEnvironment(1, 1)
    if parent.is_started() or parent.has_started():
        return OwnEnvironment(here, nodes)
    if SLURMEnvironment.detect():
        tasks, on_each = number("SLURM_NTASKS", 1), number("SLURM_NTASKS_PER_NODE", here)
        if (tasks, on_each, number("SLURM_NNODES", nodes)) != (here * nodes, here, nodes):
            raise UserError(
                f"trainer: {wanted} need srun --nodes={nodes} --ntasks-per-node={here}, and SLURM has {tasks} task(s) on "
                f"{os.environ.get('SLURM_NNODES', '1')} node(s), {on_each} on each; where srun starts none, unset SLURM_NTASKS"
            )
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(here))  # without it Lightning refuses more than one task
        number("SLURM_PROCID", None, tasks)
        # Lightning would save a checkpoint of its own; the exit code tells the job script to requeue.
        return SLURMEnvironment(auto_requeue=False)
    if LSFEnvironment.detect() or MPIEnvironment.detect():
        return None
    return OwnEnvironment(here, nodes)


class OwnEnvironment(LightningEnvironment):
    """Processes that the first one of each machine starts, or a program that gives each of them `BY_HAND`.

    Args:
        here: processes on each machine.
        nodes: machines; of several each one's NODE_RANK, MASTER_ADDR and MASTER_PORT tell where it belongs.
    """

    def __init__(self, here: int, nodes: int):
        super().__init__()
        self.here, self.nodes = here, nodes
        is_known = parent.is_started() or parent.has_started()
        self.is_one_of_several = here * nodes > 1 and (is_known or self._is_by_hand())
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # there is no agent
        if nodes > 1 and not os.environ.get("MASTER_PORT"):
            raise UserError(
                f"trainer.num_nodes={nodes}: nothing says where the machines meet; start them with torchrun or srun, or set "
                "MASTER_ADDR, MASTER_PORT and NODE_RANK on each"
            )

    def _is_by_hand(self) -> bool:
        if any(not os.environ.get(name) for name in BY_HAND) or number("WORLD_SIZE", 0) != self.here * self.nodes:
            return False
        return 0 <= number("LOCAL_RANK", 0) < self.here

    @property
    def creates_processes_externally(self) -> bool:
        return self.is_one_of_several

    @property
    def main_address(self) -> str:
        return super().main_address if self.is_one_of_several or self.nodes > 1 else "127.0.0.1"

    @property
    def main_port(self) -> int:
        """MASTER_PORT if that is free; a free one where nobody else has to know it."""
        if self._main_port == -1 and not self.is_one_of_several:
            port = number("MASTER_PORT", 0) if self.here * self.nodes > 1 else 0
            if port and not _is_free(port):
                if self.nodes > 1:
                    raise UserError(f"MASTER_PORT={port} is taken on this machine; set a free one, the same on all")
                say(f"MASTER_PORT={port} is taken on this machine; the processes meet at another port")
                port = 0
            self._main_port = port or _free_port()
        return super().main_port

    def local_rank(self) -> int:
        return number("LOCAL_RANK", None, self.here) if self.is_one_of_several else 0

    def node_rank(self) -> int:
        if self.nodes == 1:
            return 0
        return number("NODE_RANK" if "NODE_RANK" in os.environ else "GROUP_RANK", 0, self.nodes)


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except (OSError, OverflowError):
            return False
    return True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def settle(trainer: Trainer) -> None:
    """After the Trainer is built: it says which process this is, and starts the others so that none is left behind."""
    internals.leave_signals_alone(trainer)
    internals.say_rank(trainer)
    take_rank(trainer.global_rank)
    internals.start_with(trainer, parent.marking, parent.look_after)


@contextmanager
def together(trainer: Trainer) -> Iterator[None]:
    """A training of several processes: a word while they wait for each other, and none left when this one fails."""
    processes = 1 if distributed.is_initialized() else trainer.world_size
    with meeting(processes, _advice(getattr(trainer.strategy, "cluster_environment", None))):
        try:
            yield
        except BaseException:
            parent.end_children()
            raise


def _advice(environment: ClusterEnvironment | None) -> str:
    if isinstance(environment, SLURMEnvironment):
        return "; does srun start them?"
    if isinstance(environment, TorchElasticEnvironment):
        return OF_TORCHRUN
    if isinstance(environment, OwnEnvironment) and environment.is_one_of_several and not parent.is_started():
        return f"; {', '.join(BY_HAND)} in the environment say that another program starts them: if none does, unset LOCAL_RANK"
    return ""

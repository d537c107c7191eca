"""Step policies as files: `step_policy.safetensors`, weights with what builds the policy and where it comes from.

The description is JSON in the file's own header. A policy's reward is named there and not kept: samples do not need it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..foundation.atomic import replacing
from ..foundation.binding import bind, signature
from ..foundation.errors import UserError
from ..foundation.moved import ARGUMENTS as RENAMED
from ..schedules import StepPolicy
from . import record
from .weights import load_weights

FORMAT = 2  # raised when a program that knows the old one could not read the new one
NAME = "step_policy.safetensors"
HEADER = "step_policy"  # the description's name among the file's metadata


@dataclass(frozen=True)
class LearnedPolicy:
    """A policy and where it comes from.

    Args:
        policy: on the CPU, if it was loaded, and without its reward.
        protocol: what it depends on beside its arguments: seed, trajectories, guidance, reward.
        model: SHA-256 of the weights of the model that it was learned on.
        costs: "calls", the evaluations of the network by one sample that learning took.
    """

    policy: StepPolicy
    protocol: record.Protocol
    model: str
    costs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    """Description of the policy in its file; `arguments` are its constructor's, `sha256` is of its weights."""

    arguments: dict[str, object]
    protocol: record.Protocol
    model: str
    costs: dict[str, float]
    sha256: str


def save_step_policy(path: Path | str, learned: LearnedPolicy) -> Path:
    """Write it, whole or not at all; a folder gets a `step_policy.safetensors`. Returns the file's path.

    Raises:
        UserError: the file cannot be written.
    """
    path = _file(Path(path))
    tensors = {name: value.detach().cpu().contiguous() for name, value in learned.policy.state_dict().items()}
    header = _Header(learned.policy.arguments, learned.protocol, learned.model, learned.costs, digest(tensors))
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={HEADER: record.as_json(asdict(header), FORMAT)})
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        raise UserError(f"{path}: cannot be written: {error}") from error
    return path


def load_step_policy(path: Path | str) -> LearnedPolicy:
    """The policy in this file, or in this folder's `step_policy.safetensors`.

    Raises:
        UserError: no such file, a damaged one, or not a policy that this version reads.
    """
    path = _file(Path(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file; training a recipe with the learner StepPolicy makes one (digits_steps)")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {})[HEADER]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: is damaged or no step policy ({type(error).__name__}: {error})") from error
    header = record.parse(text, _Header, FORMAT, "step policy", path)
    try:
        policy = _built(header.arguments)
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    load_weights(policy, tensors, path)
    if digest(tensors) != header.sha256:
        raise UserError(f"{path}: is damaged: its weights are not those that were saved")
    return LearnedPolicy(policy.eval(), header.protocol, header.model, header.costs)


def holds_step_policy(path: Path) -> bool:
    """Whether a file is, or a folder has, one rather than a `schedule.json`."""
    return path.suffix == ".safetensors" or (path.is_dir() and (path / NAME).is_file())


def _built(arguments: Mapping[str, object]) -> StepPolicy:
    """The policy, its weights yet to be filled in; ValueError for arguments that build none."""
    parameters = signature(StepPolicy) or {}
    renamed = RENAMED[f"{StepPolicy.__module__}.{StepPolicy.__name__}"]
    arguments = {renamed.get(name, name): value for name, value in arguments.items()}
    if set(arguments) != set(parameters) - {"reward"}:
        raise ValueError(f"its arguments are {', '.join(arguments)}")
    fitting = {name: bind(value, parameters[name].annotation, f"arguments.{name}") for name, value in arguments.items()}
    with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away; nobody's random numbers change
        return StepPolicy(**fitting)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all bytes: safetensors notices a file cut short, but not a bit that flipped."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        sha.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / NAME

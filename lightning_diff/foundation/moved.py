"""Names that were changed: what recipes, checkpoints and models stored under the old ones is found under the new ones.

Stored names are read in silence, for good. In a recipe that a person wrote, and in `import`, an old name works for one more version
and says what it is called now.
"""

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]

# Files by their names of before, below the package.
_FILES = {
    "options": "cli.options",
    "run": "runs.train",
    "recipe": "runs.recipe",
    "resume": "runs.resume",
    "lock": "runs.lock",
    "memory": "runs.memory",
    "doctor": "runs.doctor",
    "export": "runs.export",
    "compare": "runs.compare",
    "ending": "runs.finished",
    "schedule_report": "runs.schedule_figure",
    "scheduling": "runs.find_schedule",
    "modules.counted": "modules.base",
    "modules.rolling": "modules.reward_epoch",
    "modules.starting": "modules.pretrained",
    "modules.policies": "rollouts.policies",
    "sharding": "modules.sharding",
    "rollout_plan": "rollouts.plan",
    "selection": "rollouts.selection",
    "scoring": "rollouts.scoring",
    "advantages": "rollouts.advantages",
    "ranking": "rollouts.ranking",
    "steering": "rollouts.steering",
    "old_policy": "rollouts.old_policy",
    "edm_pickle": "artifacts.edm_pickle",
    "ema_snapshots": "artifacts.ema_snapshots",
    "metrics_table": "artifacts.metrics_table",
    "pictures": "artifacts.pictures",
    "schedule_file": "artifacts.schedule",
    "step_policy_file": "artifacts.step_policy",
    "noise_report": "artifacts.noise_levels",
    "checkpoints": "artifacts.checkpoints",
    "checkpoint_format": "artifacts.checkpoints.format",
    "checkpoint_files": "artifacts.checkpoints.io",
    "sharded_files": "artifacts.checkpoints.sharded",
    "errors": "foundation.errors",
    "rng": "foundation.rng",
    "atomic": "foundation.atomic",
    "binding": "foundation.binding",
    "processes": "foundation.processes",
    "level_moments": "noise.moments",
    "generate": "samplers.generate",
    "guidance": "samplers.guidance",
    "samplers.nodes": "samplers.protocol",
    "schedules.stepwise": "samplers.stepwise",
    "schedules.nodes": "schedules.grids",
    "schedules.rewards": "schedules.environments",
    "sampling": "schedules.sampling",
    "spending": "schedules.adaptive_sampling",
    "lora": "nets.lora",
    "metrics.sampled": "metrics.evaluate_denoiser",
    "metrics.samples": "metrics.two_samples",
    "data.decoded_cache": "data.decoded.cache",
    "data.decoded_entry": "data.decoded.entry",
    "data.edm2_latents": "data.latents.edm2",
    "data.latents_cache": "data.latents.cache",
    "data.latents_examples": "data.latents.examples",
    "data.latents_moments": "data.latents.moments",
    "data.mapped": "data.decoded.mapped",
    "data.pixel_stores": "data.decoded.stores",
    "data.stored_images": "data.decoded.stored_images",
}
FILES = {f"{PACKAGE}.{old}": f"{PACKAGE}.{new}" for old, new in _FILES.items()}

# Classes and functions whose own name changed, by import path (of a file's name of today).
_NAMES = {
    "runs.find_schedule.read_estimate": "artifacts.estimate.read_estimate",
    "runs.resume.holds_a_run": "runs.folder.holds_a_run",
    "runs.train.build_model": "runs.build.build_model",
    "runs.train.describe": "runs.describe.describe",
    "schedules.adaptive_sampling.Spending": "schedules.adaptive_sampling.PolicySampling",
    "schedules.adaptive_sampling.spend": "schedules.adaptive_sampling.sample_with_policy",
    "schedules.environments.Game": "schedules.environments.Environment",
    "schedules.step_policy.Spent": "schedules.step_policy.AdaptiveSamples",
    "schedules.stick_breaking.Played": "schedules.stick_breaking.Episodes",
}
NAMES = {f"{PACKAGE}.{old}": f"{PACKAGE}.{new}" for old, new in _NAMES.items()}

# Arguments that a recipe may give: import path of the target (today's) -> old name -> new name, which may lie in a node:
# "advantages.spread".
_ALIGNMENT = {
    "advantage_clip": "advantages.clip",
    "baseline": "advantages.baseline",
    "eta": "loss.eta",
    "levels": "loss.levels",
    "objective": "loss.name",
    "options": "loss.options",
    "spread": "advantages.spread",
}
_DIFFUSION = {"label_dropout": "condition_dropout"}
ARGUMENTS: dict[str, dict[str, str]] = {
    f"{PACKAGE}.AlignmentModule": _ALIGNMENT,
    f"{PACKAGE}.modules.AlignmentModule": _ALIGNMENT,
    f"{PACKAGE}.modules.alignment.AlignmentModule": _ALIGNMENT,
    f"{PACKAGE}.DiffusionModule": _DIFFUSION,
    f"{PACKAGE}.modules.DiffusionModule": _DIFFUSION,
    f"{PACKAGE}.modules.diffusion.DiffusionModule": _DIFFUSION,
    f"{PACKAGE}.schedules.StepPolicy": {"tries": "group_size"},
    f"{PACKAGE}.schedules.StickBreaking": {"game": "environment"},
    f"{PACKAGE}.schedules.step_policy.StepPolicy": {"tries": "group_size"},
    f"{PACKAGE}.schedules.stick_breaking.StickBreaking": {"game": "environment"},
}

# Of these, names that stay right, of which nothing is said.
ALIASES = {"label_dropout"}

# The `_target_` of such a node, where the recipe has no node yet: import path of the outer target -> argument -> import path.
_ALIGNMENT_NODES = {"advantages": f"{PACKAGE}.rollouts.Advantages", "loss": f"{PACKAGE}.rollouts.RewardLoss"}
NODES: dict[str, dict[str, str]] = {
    f"{PACKAGE}.AlignmentModule": _ALIGNMENT_NODES,
    f"{PACKAGE}.modules.AlignmentModule": _ALIGNMENT_NODES,
    f"{PACKAGE}.modules.alignment.AlignmentModule": _ALIGNMENT_NODES,
}


def current(name: str) -> str:
    """The import path of today for one that may be old."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        if (start := ".".join(parts[:length])) in FILES:
            name = ".".join([FILES[start], *parts[length:]])
            break
    return NAMES.get(name, name)


def modern(value: Any, key: str = "") -> tuple[Any, list[str]]:
    """A recipe, or part of one, in the names of today, and a remark for each that was old.

    An old argument beside its new name overrides it: it came from the command line.
    """
    if isinstance(value, list):
        parts = [modern(item, f"{key}.{i}" if key else str(i)) for i, item in enumerate(value)]
        return [part for part, _ in parts], [remark for _, remarks in parts for remark in remarks]
    if not isinstance(value, Mapping):
        return value, []
    remarks: list[str] = []
    node = dict(value)
    target = node.get("_target_")
    if isinstance(target, str):
        node["_target_"] = current(target)
        if node["_target_"] != target:
            remarks.append(f"{key}._target_: {target} is now {node['_target_']}")
        for old, new in ARGUMENTS.get(node["_target_"], {}).items():
            if old in node:
                if old not in ALIASES:
                    remarks.append(f"{key}.{old}: is now called {new}")
                _place(node, new, node.pop(old))
    for name, item in node.items():
        node[name], more = modern(item, f"{key}.{name}" if key else str(name))
        remarks += more
    return node, remarks


def _place(node: dict[str, Any], new: str, given: Any) -> None:
    """Put a value at an argument's new place, in a node of its own if the place is dotted."""
    outer, _, inner = new.rpartition(".")
    if outer:
        there = node.get(outer)
        node[outer] = {"_target_": NODES[node["_target_"]][outer], **(there if isinstance(there, Mapping) else {})}
        node, new = node[outer], inner
    both = isinstance(given, Mapping) and isinstance(node.get(new), Mapping)
    node[new] = {**node[new], **given} if both else given


class _OldFiles(MetaPathFinder, Loader):
    """`import` of a file by its old name."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in FILES else None

    def exec_module(self, module: ModuleType) -> None:
        new = FILES[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}; the old name goes with the next version", FutureWarning, 2)

        def found(name: str) -> object:
            home, _, own = NAMES.get(f"{new}.{name}", f"{new}.{name}").rpartition(".")
            return getattr(import_module(home), own)

        module.__dict__["__getattr__"] = found


def serve_old_files() -> None:
    """Let old files be imported from now on."""
    if not any(isinstance(finder, _OldFiles) for finder in sys.meta_path):
        sys.meta_path.append(_OldFiles())

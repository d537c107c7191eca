"""What a resume may change, as the classes of each recipe declare it, is what version 0.1 had in one list of keys."""

from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

import pytest

from lightning_diff.foundation.binding import is_node, locate, signature
from lightning_diff.runs import recipe, resume
from lightning_diff.runs.recipe import LEFT_OUT, Change
from lightning_diff.runs.resume_rules import comparable

RECIPES = sorted(path.stem for path in Path(str(files("lightning_diff.recipes"))).glob("*.yaml"))
# Of version 0.1.
HARMLESS = (
    "name",
    "runs_dir",
    "resume",
    "report",
    "data.path",
    "data.dataset.root",
    "data.test_*",
    "data.workers",
    "data.model",
)
HARMLESS += (
    "model.reward.*data.*",
    "model.critic.reward.*data.*",
    "model.compile",
    "model.teacher",
    "model.model",
    "model.channels_last",
)
HARMLESS += (
    "data.held_out",
    "data.prompts",
    "data.source.batch_size",
    "data.autoencoder.folder",
    "model.net.checkpointing",
    "callbacks.*",
    "trainer.*",
)
DECISIVE = [
    "trainer.precision",
    "trainer.gradient_clip_*",
    "trainer.plugins*",
    "trainer.sync_batchnorm",
    "callbacks.Mentor*",
]
AVERAGE = "callbacks.EMA.profiles."
# What no packaged recipe says, and a person may.
TRAINER = {"precision": "bf16-mixed", "gradient_clip_val": 1.0, "plugins": [], "sync_batchnorm": True, "devices": 1}
MODEL = {"compile": True, "channels_last": True, "condition_dropout": 0.1}
DATA = {"workers": 2, "conditional": False, "test_fraction": 0.1, "test_split": "x"}
PROFILE = {"a": {"_target_": "lightning_diff.ema.HalfLife", "images": 1, "ramp_up": 0.1}}
CALLBACKS = [
    {"_target_": "lightning_diff.callbacks.Mentor", "every": 2},
    {"_target_": "lightning_diff.callbacks.NoiseLevels", "windows": 2},
    {"_target_": "lightning_diff.callbacks.EMA", "profiles": PROFILE, "snapshot_every": 100},
]


def was_harmless(change: Change) -> bool:
    if change.key.startswith(AVERAGE):
        return "." not in change.key.removeprefix(AVERAGE) and LEFT_OUT in (change.before, change.after)
    harmless, decisive = (any(fnmatchcase(change.key, key) for key in keys) for keys in (HARMLESS, DECISIVE))
    return harmless and not decisive


def edits(value: object):
    """(edited copy) of a part of a recipe: each value changed, each left out, each target replaced, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            for edited in edits(item):
                yield value | {name: edited}
            if name == "_target_":
                continue
            yield {key: kept for key, kept in value.items() if key != name}
            yield value | {name: {"_target_": "torch.nn.Identity"} if is_node(item) else "something else"}
    elif isinstance(value, list):
        for i, item in enumerate(value):
            for edited in edits(item):
                yield [*value[:i], edited, *value[i + 1 :]]
            yield [*value[:i], *value[i + 1 :]]


def full(name: str) -> recipe.Recipe:
    """The packaged recipe, and what it leaves to its defaults."""
    settings = recipe.compose(name)
    here = {node["_target_"] for node in settings["callbacks"]}
    callbacks = [*settings["callbacks"], *(node for node in CALLBACKS if node["_target_"] not in here)]
    for key, options in (("model", MODEL), ("data", DATA)):
        takes = signature(locate(settings[key]["_target_"], key))
        settings |= {key: {name: value for name, value in options.items() if name in takes} | settings[key]}
    settings |= {"callbacks": callbacks, "trainer": TRAINER | settings["trainer"]}
    recipe.check(settings, name)  # imports all that it names
    return settings


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_of_a_packaged_recipe_is_judged_as_ever(name):
    settings = full(name)
    judged = 0
    for edited in edits(settings):
        if not (is_node(edited.get("model")) and is_node(edited.get("data")) and type(edited.get("callbacks")) is list):
            continue
        for before, after in ((settings, edited), (edited, settings)):
            harmless, decisive = resume.compare(before, after)
            assert all(map(was_harmless, harmless)), harmless
            assert not any(map(was_harmless, decisive)), decisive
            judged += len(harmless) + len(decisive)
    assert judged > 50


class Net:
    RESUME_MAY_CHANGE = ("cache*",)


class Deeper(Net):
    RESUME_MAY_CHANGE = ("note",)
    RESUME_MUST_KEEP = ("cache_size",)


class Steering:
    RESUME_MUST_KEEP = ("*",)


class Silent:
    pass


def node(kind: type | str, **arguments: object) -> dict[str, object]:
    return {"_target_": kind if isinstance(kind, str) else f"{__name__}.{kind.__name__}", **arguments}


def verdict(before: dict[str, object], after: dict[str, object]) -> str:
    both = [{"model": node(Silent), "data": node(Silent), "callbacks": [], **settings} for settings in (before, after)]
    harmless, decisive = resume.compare(*both)
    assert len(harmless) + len(decisive) == 1
    return "harmless" if harmless else "decisive"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"model": node(Silent, net=node(Net, cache_size=1))}, {"model": node(Silent, net=node(Net, cache_size=2))}, "harmless"),
        ({"model": node(Silent, net=node(Net, width=1))}, {"model": node(Silent, net=node(Net, width=2))}, "decisive"),
        ({"model": node(Silent, net=node(Net))}, {"model": node(Silent, net=node(Deeper))}, "decisive"),
        ({"data": node(Deeper, note=1)}, {"data": node(Deeper, note=2)}, "harmless"),
        ({"data": node(Deeper, cache=1)}, {"data": node(Deeper)}, "harmless"),  # by its base
        ({"data": node(Deeper, cache_size=1)}, {"data": node(Deeper, cache_size=2)}, "decisive"),
        ({"data": node(Silent, cache=1)}, {"data": node(Silent, cache=2)}, "decisive"),
        ({}, {"callbacks": [node(Silent)]}, "harmless"),
        ({"callbacks": [node(Silent, a=1)]}, {"callbacks": [node(Silent, a=2)]}, "harmless"),
        ({"callbacks": [node(Steering)]}, {}, "decisive"),
        ({"callbacks": [node(Steering, a=1)]}, {"callbacks": [node(Steering, a=2)]}, "decisive"),
        ({"callbacks": [node("gone.Steering")]}, {}, "harmless"),  # nothing is imported to find out
    ],
)  # fmt: skip
def test_a_class_says_what_may_change(before, after, expected):
    assert verdict(before, after) == expected


def test_an_average_that_is_written_out_as_the_default_is_no_change():
    written = node(
        "lightning_diff.callbacks.EMA", profiles={"ema": node("lightning_diff.ema.HalfLife", images=500_000)}
    )
    for short in (node("lightning_diff.callbacks.EMA"), node("lightning_diff.callbacks.ema.EMA", profiles=None)):
        assert resume.compare({"callbacks": [short]}, {"callbacks": [written]}) == ([], [])


def test_the_second_callback_of_a_kind_has_its_number():
    twice = {"callbacks": [{"_target_": "lightning_diff.callbacks.SampleGrid", "every": every} for every in (10, 20)]}
    assert list(comparable(twice)["callbacks"]) == ["SampleGrid", "SampleGrid (2)"]

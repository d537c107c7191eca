"""What a module that starts from a trained model takes from the model: facts of its record, its network, its weights."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from ..artifacts import (
    ModelRecord,
    TrainedWith,
    bind_time,
    in_words,
    load_denoiser,
    load_weights,
    places,
    read_record,
    unlike,
)
from ..data import Data
from ..denoiser import Denoiser
from ..foundation.binding import bind, construct, is_node
from ..foundation.errors import UserError
from ..nets.lora import adapted, plain_name
from .training_data import training_data

PARAMETRISATION = ("sigma_data", "time", "prediction")
MOST_FRESH = 5  # weights that an error offers to start anew


def facts(
    node: Mapping[str, Any], key: str, extra: Mapping[str, Any] | None = None, *, of_data: Collection[str] = ()
) -> dict[str, Any]:
    """What the record of the model that `node[key]` names fills into a recipe's `model` node: net, sigma_data, time, prediction.

    A prediction that has the name of its time is left out, as in recipes of before there were others. Bounds are filled in where
    the node has none: those of `node["start"]`, or the model's.

    Args:
        node: what the recipe gives; `net` may be a node, a network, or arguments in which it differs from the model's.
        key: "teacher", for instance.
        extra: further arguments of the network.
        of_data: arguments of the network that are left out, for the data to fill in.
    """
    net = node.get("net")
    is_known = is_node(net) or isinstance(net, nn.Module)
    if is_known and "sigma_data" in node and "time" in node:  # even without the model
        return {"net": net} | {name: node[name] for name in PARAMETRISATION if name in node} | _bounds(node, "start")
    known = record(Path(node[key]), key)
    if not is_known:
        own = {name: value for name, value in known.net.items() if name not in of_data}
        net = own | dict(extra or {}) | (net or {})
    found = {name: node.get(name, getattr(known, name)) for name in PARAMETRISATION}
    found["prediction"] = found["prediction"] or known.time  # of records from before the two had names of their own
    if found["prediction"] == found["time"] and "prediction" not in node:
        del found["prediction"]
    return {"net": net} | found | (_bounds(node, "start") or _bounds(node, key))


def _bounds(node: Mapping[str, Any], key: str) -> dict[str, list[float]]:
    """Those of the model that `node[key]` names, if it can be found and has some, and the node gives none."""
    if "bounds" in node or node.get(key) is None or not (path := places.find(Path(node[key]))).exists():
        return {}
    bounds = read_record(path).bounds
    return {} if bounds is None else {"bounds": list(bounds)}


def record(path: Path, key: str) -> ModelRecord:
    """The model's record. UserError saying which recipe makes it, if a packaged one does."""
    if (found := places.find(path)).exists():
        return read_record(found)
    is_packaged = (files("lightning_diff.recipes") / f"{path.name}.yaml").is_file()
    way = f"`lightning-diff train {path.name}` makes it" if is_packaged else "train it first"
    raise UserError(f"model.{key}: {path}: no such model; {way}")


def trained_with(path: Path) -> TrainedWith:
    """What the model was trained with; nothing is known of one that is not there."""
    try:
        known = read_record(path)
    except UserError:
        return TrainedWith()
    return TrainedWith(**{each.name: getattr(known, each.name) for each in fields(TrainedWith)})


def denoiser(
    recipe_facts: Callable[[Mapping[str, Any]], dict[str, Any]], *, kind: str = "denoiser", **given: Any
) -> Denoiser:
    """A new denoiser of the network, sigma_data, time and prediction that are given, and the model's where one of these is None.

    Where the model is looked at, its bounds are taken, too, unless others are given.

    Args:
        recipe_facts: the module's, which knows the model (see `facts`).
        kind: of the new denoiser.
        given: net, sigma_data, time, prediction and bounds, and what else it takes; None for what is left out.
    """
    net, sigma_data, time, prediction = (given[name] for name in ("net", *PARAMETRISATION))
    bounds = given.get("bounds")
    if not isinstance(net, nn.Module) or sigma_data is None or time is None:
        known = recipe_facts({name: value for name, value in given.items() if value is not None})
        net = net if isinstance(net, nn.Module) else construct(bind(known["net"], nn.Module, "net"))
        sigma_data, time, prediction = known["sigma_data"], bind_time(known["time"]), known.get("prediction")
        bounds = known.get("bounds") if bounds is None else bounds
    return Denoiser(net, sigma_data, time, kind, prediction, bounds=bounds)


@runtime_checkable
class HasGuidanceInput(Protocol):
    """A network that knows which of its weights another like it lacks, that has no input for the scale."""

    def with_guidance_input(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class Started(NamedTuple):
    """What training starts from: a trained denoiser, its record, the names of the weights that are not taken from it, and the
    time that these are told now, where it is another."""

    denoiser: Denoiser
    record: ModelRecord
    path: Path
    fresh: list[str]
    time: str | Mapping[str, Any] | None = None

    def remarks(self, data: Data) -> Iterator[str]:
        """What to say before the first step."""
        known = self.record
        of = f" after {known.images:,} images" if known.images else ""
        anew = f"; new or left out: {', '.join(self.fresh)}" if self.fresh else ""
        yield f"model.start: the weights of {self.path}{of}{anew}"
        if self.time is not None:
            yield f"model.retime: the time is {self.time}, and was {known.time} there: the network has to learn it"
        if not math.isclose(known.sigma_data, data.sigma_data, rel_tol=1e-3):
            yield f"model.start: sigma_data stays {known.sigma_data:g}, as of these weights; the data's is {data.sigma_data:g}"
        there, here = known.class_names, data.class_names
        if there and here and (other := [i for i in range(min(len(there), len(here))) if there[i] != here[i]]):
            first = other[0]
            yield f"model.start: label {first} was {there[first]} there and is {here[first]} here; {len(other):,} classes differ"


def start_from(
    path: Path,
    own: Denoiser,
    key: str = "model",
    fresh: Sequence[str] = (),
    *,
    described: bool = False,
    retime: bool = False,
    student: bool = False,
) -> Started:
    """Give `own`, which may have adapters, the weights of a trained denoiser.

    Args:
        path: of the model, or the name of a run in runs/.
        own: a new denoiser; nothing happens to weights on the meta device, but that they are compared.
        key: of the recipe's `model` node that names the model.
        fresh: patterns of names of weights that stay as they are in `own`, and may be missing there or in the model.
        described: read no weights, but build the network of the record without any.
        retime: let `own` have another time than the weights were trained with.
        student: `own` is a consistency model, which another one may start, and whose input for the scale of guidance may be new.

    Raises:
        UserError: there is no such model, or it is of another kind, unit of data or network.
    """
    known = record(path, key)
    start = _empty(known, path) if described else load_denoiser(path)
    if start.kind != "denoiser" and not student:
        raise UserError(f"model.{key}: {path} is a {start.kind} model; this trains denoisers")
    may_differ = key == "start" and not student
    way = ", or say model.retime=true and let the network learn it" if may_differ else ""
    like_teacher = "leave out what the recipe says of it, or start from a model with the teacher's" if student else ""
    refuse_other_parametrisation(own, start, path, but=("time",) if retime else (), way=way, instead=like_teacher)
    weights = with_guidance_input(own.net, start.net) if student else start.net.state_dict()
    mine, theirs = own.net.state_dict(), adapted(weights, own.net)
    named = [name for name in dict.fromkeys([*mine, *theirs]) if _is_like(name, fresh)]
    if idle := [pattern for pattern in fresh if not any(_is_like(name, [pattern]) for name in named)]:
        raise UserError(f"model.fresh: neither {path} nor the network has a weight that is named like {idle[0]}")
    theirs = {name: weight for name, weight in theirs.items() if name not in named}
    theirs |= {name: mine[name] for name in named if name in mine}
    if differing := unlike(mine, theirs):
        few = len(differing) <= MOST_FRESH and may_differ
        names = ", ".join(sorted(map(plain_name, differing)))
        way = f"; model.fresh='[{names}]' starts these anew, or leaves them out, and takes the others" if few else ""
        raise UserError(f"model.{key}: {path}: weights of another network: {in_words(differing, mine, theirs)}{way}")
    if not any(weight.is_meta for weight in mine.values()):
        load_weights(own.net, theirs, path)
    is_other = own.parametrisation["time"] != start.parametrisation["time"]
    if retime and not is_other:
        raise UserError(
            f"model.retime: {path} was trained with this time, {own.time}; name another as model.time, or leave it out"
        )
    return Started(start, known, path, [plain_name(name) for name in named], own.time if is_other else None)


class StartingWeights:
    """The weights of another model that a module starts from: taken once, before a new run; one that resumes does not look at it.

    Args:
        path: of the model; None for none.
        how: as for `start_from`.

    Attributes:
        kind: of the model that was taken; None before, and where none was.
    """

    def __init__(self, path: str | Path | None, **how: Any):
        self.path, self._how = None if path is None else Path(path), how
        self._is_due = path is not None
        self.kind: str | None = None
        self._started: Started | None = None
        self._not_found: UserError | None = None

    def take(self, own: Denoiser, *, resumes: bool, described: bool = False) -> None:
        """UserError as `start_from` gives it; nothing the second time, or where a run resumes."""
        if self._is_due and not resumes:
            assert self.path is not None
            self._started = start_from(self.path, own, "start", described=described, **self._how)
            self.kind = self._started.record.kind
        self._is_due = False

    def setup(self, own: Denoiser, trainer: Trainer) -> None:
        """Take them if a Trainer of one's own runs, and say what was taken."""
        try:
            self.take(own, resumes=False)
        except UserError as error:
            self._not_found = error  # no matter to a run that resumes from a checkpoint
        if self._started is not None and trainer.is_global_zero:
            print("\n".join(self._started.remarks(training_data(trainer).data)), flush=True)
        self._started = None

    def refuse_missing(self, images_seen: int) -> None:
        """UserError of `setup` in a run that turned out to be new."""
        if self._not_found is not None and not images_seen:
            raise self._not_found


def with_guidance_input(own: nn.Module, teacher: nn.Module) -> dict[str, Tensor]:
    """The teacher's state as that of a network like it with an input for the scale of guidance, which stays as it is."""
    state = teacher.state_dict()
    if isinstance(own, HasGuidanceInput):
        return own.with_guidance_input(state)
    return {name: weight for name, weight in own.state_dict().items() if ".guidance." in f".{name}"} | state


def _empty(known: ModelRecord, path: Path) -> Denoiser:
    """The denoiser that a record describes, without memory for its weights; with them if its network looks at values."""
    try:
        with torch.device("meta"):
            net = construct(bind(known.net, nn.Module, "net"))
    except RuntimeError:
        return load_denoiser(path)
    return Denoiser(net, known.sigma_data, bind_time(known.time), known.kind, known.prediction, bounds=known.bounds)


def refuse_other_parametrisation(
    own: Denoiser, start: Denoiser, path: Path, *, but: Sequence[str] = (), way: str = "", instead: str = ""
) -> None:
    """UserError unless the weights of `start`, from this path, mean the same in `own`.

    Args:
        but: of the parametrisation, what may differ.
        way: out of a difference in time alone, for the message.
        instead: of its advice to leave out what differs.
    """
    mine, theirs = own.parametrisation, start.parametrisation
    if differing := [name for name in mine if mine[name] != theirs[name] and name not in but]:
        here, there = (" and ".join(f"{name} {known[name]}" for name in differing) for known in (mine, theirs))
        also = way if differing == ["time"] else ""
        advice = instead or f"leave out {' and '.join(differing)}{also}"
        raise UserError(f"model: {here}, but {path} was trained with {there}; {advice}")


def refuse_other_network(own: Denoiser, path: Path, key: str) -> None:
    """UserError unless the network has the weights of the model at this path, an input for the scale of guidance apart."""
    mine = own.net.state_dict()
    theirs = with_guidance_input(own.net, _empty(record(path, key), path).net)
    if differing := unlike(mine, theirs):
        raise UserError(f"model.{key}: {path}: weights of another network: {in_words(differing, mine, theirs)}")


def fresh_names(net: nn.Module, fresh: Sequence[str]) -> list[str]:
    """The parameters of a network that are named like one of these patterns."""
    return [name for name, _ in net.named_parameters() if _is_like(name, fresh)]


def _is_like(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(plain_name(name), pattern) for pattern in patterns)

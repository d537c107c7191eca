"""Which of the compared runs are one experiment with several seeds, and what sets the others apart.

Runs whose recipes differ in their seed alone (and in where they are and who tracks them) are one group, if they have seen equally
many images: its figures are means with 95 % intervals (Student's t, over seeds). Two runs of one seed are no two samples, and stay
apart. Groups are held against the first one: their figures compare if the protocol is the same, their losses if the data, the
training module and the noise law are.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from ..artifacts.metrics_rows import Row
from . import recipe
from .compare import COMPARABLE, Protocol, Run
from .recipe import Node, Recipe

OF_ONE_RUN = (*recipe.OF_THE_FOLDER, "seed", "generator")  # keys of a recipe that do not make another experiment
NOT_THE_IMAGES = ("batch_size", "workers", "augment")  # keys of data that leave the images as they are
T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)  # by degrees of freedom, from 1
Z95 = 1.959964
NOTHING = "nothing recorded"


@dataclass(frozen=True)
class Group:
    """Runs of one experiment.

    Args:
        name: unlike those of the others.
        runs: one for each seed.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def images(self) -> int:
        return self.runs[0].images

    def evaluations(self) -> dict[Protocol, dict[str, list[Row]]]:
        """For each protocol and metric the newest row of each run that has one."""
        found: dict[Protocol, dict[str, list[Row]]] = {}
        for run in self.runs:
            for protocol, rows in run.evaluations().items():
                for metric, row in rows.items():
                    found.setdefault(protocol, {}).setdefault(metric, []).append(row)
        return found


@dataclass(frozen=True)
class Series:
    """A group under one protocol: a column of the table and a curve of the picture.

    Args:
        label: name of the group, and what tells several series of it apart; with a * if something does not compare.
        group: whose.
        protocol: of its figures; None without figures.
        figures_differ: columns in which the protocol is another than the first series'.
        losses_differ: why its losses do not compare with the first group's.
    """

    label: str
    group: Group
    protocol: Protocol | None
    figures_differ: tuple[str, ...] = ()
    losses_differ: tuple[str, ...] = ()


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The experiments, in the order of their first runs."""
    groups: list[list[Run]] = []
    for run in runs:
        home = next((group for group in groups if _belongs(run, group)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    names = [_common_name(group) for group in groups]
    taken = {run.name for run in runs}
    return [
        Group(
            name
            if len(group) == 1 or (names.count(name) == 1 and name not in taken)
            else f"{group[0].name} and others",
            tuple(group),
        )
        for name, group in zip(names, groups, strict=True)
    ]


def series(groups: Sequence[Group]) -> list[Series]:
    """What is shown of each group: the protocol that most of them share, else its own newest ones, marked."""
    main = main_protocol(groups)
    found = []
    for group in groups:
        evaluations = group.evaluations()
        protocols: list[Protocol | None] = [main]
        if main not in evaluations:
            newest = [p for p, rows in evaluations.items() if _is_newest(group, rows)]
            protocols = [*(newest or list(evaluations)[-1:])] or [None]
        losses = losses_differ(groups[0], group)
        for protocol in protocols:
            figures = () if protocol is None or main is None else differing(main, protocol)
            label = group.name
            if len(protocols) > 1 and protocol is not None:
                own = set(differing(*[other for other in protocols if other is not None][:2])) & {"solver", "nfe"}
                label += "".join(f", {name} {protocol[COMPARABLE.index(name)]}" for name in sorted(own or {"nfe"}))
            label += "*" if figures or losses else ""
            found.append(Series(label, group, protocol, figures, losses))
    return found


def main_protocol(groups: Sequence[Group]) -> Protocol | None:
    """The protocol under which most groups were measured: of several the newest, of the first group if it has one."""
    measured = [list(group.evaluations()) for group in groups]
    shared = Counter(protocol for protocols in measured for protocol in protocols)
    places = {
        protocol: (-owner, place)
        for owner, protocols in reversed(list(enumerate(measured)))
        for place, protocol in enumerate(protocols)
    }
    return max(shared, key=lambda protocol: (shared[protocol], places[protocol]), default=None)


def differing(a: Protocol, b: Protocol) -> tuple[str, ...]:
    """Columns in which two protocols differ."""
    return tuple(name for name, x, y in zip(COMPARABLE, a, b, strict=True) if x != y)


def losses_differ(first: Group, other: Group) -> tuple[str, ...]:
    """Why the losses of two groups do not compare; empty if they do, or if a recipe is missing."""
    a, b = first.runs[0].settings, other.runs[0].settings
    if a is None or b is None:
        return ()
    found = []
    mine, theirs = _part(a, "model"), _part(b, "model")
    if mine.get("_target_") != theirs.get("_target_"):
        found.append(f"{_target(theirs)} and not {_target(mine)}")
    elif mine.get("noise") != theirs.get("noise"):
        found.append("other noise levels (model.noise)")
    changed = [change.key for change in recipe.changes(_images(a), _images(b), "data")]
    if changed and not _references(first) & _references(other):  # a folder may have moved
        found.append(f"other data ({', '.join(changed[:3])})")
    return tuple(found)


def remarks(shown: Sequence[Series]) -> list[str]:
    """A sentence for everything that does not compare, and for what is missing or set apart."""
    found = []
    main = next((each for each in shown if each.protocol is not None and not each.figures_differ), None)
    for each in shown:
        reasons = list(each.losses_differ)
        if each.losses_differ:
            found.append(f"{each.label}: losses do not compare with {shown[0].group.name}'s: {', '.join(reasons)}")
        if main is not None and main.protocol is not None and each.protocol is not None and each.figures_differ:
            pairs = [
                f"{name} {mine or NOTHING} and {theirs or NOTHING}"
                for name, mine, theirs in zip(COMPARABLE, main.protocol, each.protocol, strict=True)
                if mine != theirs
            ]
            found.append(f"{each.label}: figures do not compare with {main.group.name}'s: {', '.join(pairs)}")
    groups = list({id(each.group): each.group for each in shown}.values())
    for i, group in enumerate(groups):
        for other in groups[:i]:
            if (reason := _set_apart(other, group)) is not None:
                found.append(f"{group.name}: is of one experiment with {other.name}, and stands apart: {reason}")
                break
    found += [f"{run.name}: {fault}" for group in groups for run in group.runs for fault in run.faults]
    return list(dict.fromkeys(found))


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval by Student's t; None for one value, NaN where a value is not finite."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)  # statistics.stdev fails at NaN
    return mean, t95(n - 1) * (variance / n) ** 0.5


def t95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with so many degrees of freedom, >= 1; to 2e-4."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z, f = Z95, freedom  # the expansion in 1 / f: Abramowitz and Stegun 26.7.5
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / f + second / f**2 + third / f**3


def _belongs(run: Run, group: Sequence[Run]) -> bool:
    return (
        _is_one_experiment(run, group[0])
        and run.images == group[0].images
        and all(run.seed != other.seed for other in group)
    )


def _is_one_experiment(a: Run, b: Run) -> bool:
    if a.settings is None or b.settings is None:
        return False
    keys = [change.key for change in recipe.changes(a.settings, b.settings)]
    return all(key in OF_ONE_RUN or key.startswith("trainer.logger") for key in keys)


def _set_apart(a: Group, b: Group) -> str | None:
    """Why two groups of one experiment are two."""
    if not _is_one_experiment(a.runs[0], b.runs[0]):
        return None
    if a.images != b.images:
        return f"{b.images:,} images and not {a.images:,}"
    return f"both have seed {b.runs[0].seed}, and a mean takes each seed once"


def _common_name(runs: Sequence[Run]) -> str:
    """What the names of runs have in common, without a seed's place in it."""
    names = [run.name for run in runs]
    if len(names) == 1:
        return names[0]
    start = _common_start(names)
    end = _common_start([name[len(start) :][::-1] for name in names])[::-1]
    start = re.sub(r"[-_,. ]*(seed)?[-_=]?\d*$", "", start, flags=re.IGNORECASE)
    return f"{start}{end}".strip("-_,. ") or names[0]


def _common_start(names: Sequence[str]) -> str:
    same = (letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    return "".join(same)


def _references(group: Group) -> set[str]:
    """Hashes of the images that figures were measured against."""
    return {row["reference"] for run in group.runs for row in run.metrics if row["reference"]}


def _images(settings: Recipe) -> Node:
    return {key: value for key, value in _part(settings, "data").items() if key not in NOT_THE_IMAGES}


def _part(settings: Recipe, key: Literal["model", "data"]) -> Node:
    return settings[key] if isinstance(settings[key], dict) else {}


def _is_newest(group: Group, rows: dict[str, list[Row]]) -> bool:
    """Whether something of these rows was measured at the newest evaluation of the group."""
    newest = max(
        (_at(row) for found in group.evaluations().values() for each in found.values() for row in each), default=0
    )
    return any(_at(row) == newest for each in rows.values() for row in each)


def _at(row: Row) -> float:
    return float(row["images"] or 0)


def _target(node: Node) -> str:
    return str(node.get("_target_", "no training module")).rpartition(".")[2]

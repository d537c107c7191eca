"""An optimiser's state in a checkpoint, and the optimiser of a training that resumes from it, which may be another."""

import inspect
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from .lightning_internals import State

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def options(optimizer: torch.optim.Optimizer) -> list[State]:
    """What was chosen for each group of parameters: arguments of the optimiser's class, or of those it derives from.

    What else it keeps in its groups is state. The rate comes as `initial_lr`, too, which a schedule leaves alone. One that is made
    of others, in its attribute `parts`, has theirs.
    """
    if parts := getattr(optimizer, "parts", ()):
        return [chosen for part in parts for chosen in options(part)]
    classes = [each for each in type(optimizer).__mro__ if issubclass(each, torch.optim.Optimizer)]
    takes = {name for each in classes for name in inspect.signature(each).parameters} - {"params", "defaults"}
    return [
        {name: group[name] for name in takes & group.keys()} | {"initial_lr": group["lr"]}
        for group in optimizer.param_groups
    ]


def misfit(saved: State, make: Optimizer, parameters: Sequence[nn.Parameter]) -> str | None:
    """Why the optimiser that `make` gives cannot continue from a saved state; None if it can.

    Args:
        saved: a `state_dict` of an optimiser.
        make: as in a recipe: takes the parameters, returns the optimiser.
        parameters: those that are trained.
    """
    optimizer = make(iter(parameters))
    name = type(optimizer).__name__
    groups = saved["param_groups"], optimizer.param_groups
    there, here = ([len(group["params"]) for group in each] for each in groups)
    if there != here:
        return f"the checkpoint's optimiser has {_groups(there)}, this {name} {_groups(here)}"
    for index, needed in (_kept(make, parameters) or {}).items():
        has = set(saved["state"].get(index, ()))
        # One without any is new to a parameter, as at the start of a training, unless it makes its state when it is built.
        if (has or optimizer.state) and (lacks := needed - has):
            kept = ", ".join(sorted(has)) or "nothing"
            return f"{name} keeps {', '.join(sorted(lacks))}, which the checkpoint's optimiser did not; it kept {kept}"
    return None


def refusal(make: Optimizer, parameters: Sequence[nn.Parameter], device: torch.device) -> str | None:
    """Why the optimiser that `make` gives takes no step on this device, in torch's words; None if it does."""
    try:
        _step(make, parameters, device)
    except AssertionError as error:  # of torch's optimisers, for options that are not for every device
        return str(error).splitlines()[0] if str(error) else "an option of it is not for this device"
    except Exception:  # whatever one of the user's wants of the parameters, or of their sizes
        return None
    return None


def fitted(saved: State, make: Optimizer, parameters: Sequence[nn.Parameter]) -> State:
    """A saved state for the optimiser that `make` gives: with its options, and without what it does not keep if these differ."""
    optimizer = make(iter(parameters))
    chosen, groups, entries = options(optimizer), saved["param_groups"], saved["state"]
    if any(group.get(name) != value for group, own in zip(groups, chosen, strict=True) for name, value in own.items()
           if name not in ("lr", "initial_lr")):  # fmt: skip
        takes = {"params", *optimizer.param_groups[0]}
        groups = [{name: value for name, value in group.items() if name in takes} for group in groups]
        if (kept := _kept(make, parameters)) is not None:
            entries = {
                i: {name: entry[name] for name in kept.get(i, set()) & entry.keys()} for i, entry in entries.items()
            }
    return {
        "state": {index: entry for index, entry in entries.items() if entry},
        "param_groups": [group | own for group, own in zip(groups, chosen, strict=True)],
    }


def _kept(make: Optimizer, parameters: Sequence[nn.Parameter]) -> dict[int, set[str]] | None:
    """What the optimiser keeps for each parameter, found by a step on numbers in their place; None if it does not step on these."""
    try:
        optimizer = _step(make, parameters, torch.device("cpu"))
    except Exception:  # whatever an optimiser of the user's wants of the parameters, their sizes or their device
        return None
    return {index: set(entry) for index, entry in optimizer.state_dict()["state"].items()}


def _step(make: Optimizer, parameters: Sequence[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    numbers = [nn.Parameter(torch.zeros([1] * parameter.ndim, device=device)) for parameter in parameters]
    for number in numbers:
        number.grad = torch.zeros_like(number)
    optimizer = make(iter(numbers))
    optimizer.step(lambda: 0.0)
    return optimizer


def _groups(sizes: Sequence[int]) -> str:
    return f"{len(sizes)} group{'s' if len(sizes) > 1 else ''} of {', '.join(map(str, sizes))} parameters"

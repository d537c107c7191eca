"""What examples are conditioned on beside a class: named tensors, such as the embeddings of a text, and prompts by their number.

A class label is an int64 tensor (B,). Everything else is a `Condition`. "No condition" is None: a network that takes conditions
knows its own, the embedding of the empty prompt for instance, as one that takes labels knows its extra class.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn
from torch.utils import _pytree

Shapes = Mapping[str, Sequence[int]]  # of one example, by name
PREFIX = "condition."  # of the names in a batch


class Condition:
    """Named tensors with a leading batch axis, (B, ...) each; rows are taken as a tensor's are.

    Args:
        tensors: at least one, all of the same length.

    Attributes:
        tensors: by name; not to be changed.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        if not tensors:
            raise ValueError("Condition: there are no tensors")
        if len(lengths := {len(each) for each in tensors.values()}) != 1:
            raise ValueError(
                f"Condition: the tensors of a batch differ in length: {', '.join(map(str, sorted(lengths)))}"
            )
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice | Tensor | Int64[np.ndarray, " n"] | Sequence[int]) -> "Condition":
        chosen = torch.as_tensor(rows) if isinstance(rows, np.ndarray) else rows
        return Condition({name: each[chosen] for name, each in self.tensors.items()})

    def __repr__(self) -> str:
        return f"Condition({', '.join(f'{name} {tuple(each.shape)}' for name, each in self.tensors.items())})"

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one example, by name."""
        return {name: tuple(each.shape[1:]) for name, each in self.tensors.items()}

    def to(self, *args: Any, **kwargs: Any) -> "Condition":
        """On another device or in another precision; whole numbers and masks keep their dtype, as a module's buffers do."""
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        return Condition(
            {
                name: each.to(device, dtype if each.is_floating_point() else None, non_blocking)
                for name, each in self.tensors.items()
            }
        )

    def expand(self, count: int) -> "Condition":
        """The one row for each of `count` examples, without a copy."""
        return Condition({name: each.expand(count, *each.shape[1:]) for name, each in self.tensors.items()})

    def repeat_interleave(self, repeats: int, dim: int = 0) -> "Condition":
        """Each row so many times, next to each other."""
        return Condition({name: each.repeat_interleave(repeats, dim) for name, each in self.tensors.items()})

    def where(self, keep: Bool[Tensor, " b"], other: "Condition") -> "Condition":
        """These rows where `keep`, elsewhere those of `other`, which has as many or one; names and shapes must be the same."""
        refuse_unlike(self.shapes, other.shapes, "Condition.where")
        return Condition(
            {
                name: torch.where(
                    keep.reshape(-1, *[1] * (each.ndim - 1)), each, other.tensors[name].to(each.device, each.dtype)
                )
                for name, each in self.tensors.items()
            }
        )

    @classmethod
    def cat(cls, parts: Iterable["Condition"]) -> "Condition":
        """The rows of all, one after another."""
        each = list(parts)
        return cls({name: torch.cat([part.tensors[name] for part in each]) for name in each[0].tensors})


AnyCondition = Int64[Tensor, " b"] | Condition

_pytree.register_pytree_node(  # so that torch's transforms, FSDP and export see the tensors
    Condition,
    lambda condition: (list(condition.tensors.values()), tuple(condition.tensors)),
    lambda values, names: unchecked(dict(zip(names, values, strict=True))),
    serialized_type_name="lightning_diff.condition.Condition",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
)


def unchecked(tensors: dict[str, Any]) -> Condition:
    """Of whatever a transform puts in the place of tensors."""
    condition = Condition.__new__(Condition)
    condition.tensors = tensors
    return condition


def refuse_unlike(shapes: Shapes, others: Shapes, what: str) -> None:
    """ValueError that names the first difference between two sets of names and shapes."""
    for name in dict.fromkeys([*shapes, *others]):
        one, other = (None if name not in each else tuple(each[name]) for each in (shapes, others))
        if one != other:
            raise ValueError(f"{what}: {name} is {one or 'missing'} here and {other or 'missing'} there")


# --- batches, which are mappings of tensors ---


def into_batch(given: AnyCondition | None) -> dict[str, Tensor]:
    """What a batch holds of labels or a condition: "label", or "condition.NAME" for each tensor."""
    if given is None:
        return {}
    if isinstance(given, Tensor):
        return {"label": given}
    return {PREFIX + name: each for name, each in given.tensors.items()}


def of_batch(batch: Mapping[str, Tensor]) -> AnyCondition | None:
    """What the examples of a batch are conditioned on; None for nothing."""
    found = {name.removeprefix(PREFIX): each for name, each in batch.items() if name.startswith(PREFIX)}
    return Condition(found) if found else batch.get("label")


def without(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch without labels and conditions."""
    return {name: each for name, each in batch.items() if name != "label" and not name.startswith(PREFIX)}


# --- networks ---


@runtime_checkable
class TakesCondition(Protocol):
    """A network whose third argument is a `Condition`, or None for its own null condition.

    Attributes:
        condition_shapes: names and shapes of what it takes, for one example.
    """

    condition_shapes: dict[str, tuple[int, ...]]

    @property
    def null_condition(self) -> Condition | None:
        """One row; None while it is not known."""
        ...

    def keep_null_condition(self, condition: Condition) -> None:
        """Take this one row as "no condition" from now on, in checkpoints too."""
        ...


def takes_condition(net: object) -> bool:
    """Whether a network takes a `Condition`: it may have the attributes and need none."""
    return isinstance(net, TakesCondition) and bool(net.condition_shapes)


def blank(net: object, num_classes: int, count: int = 1, device: torch.device | str = "cpu") -> AnyCondition | None:
    """Something of the kind that a network takes, all zeros: for calls where only shapes count.

    Args:
        net: that is called.
        num_classes: of what trains it, 0 for none.
        count: of examples.
    """
    if takes_condition(net):
        assert isinstance(net, TakesCondition)
        return Condition({n: torch.zeros(count, *shape, device=device) for n, shape in net.condition_shapes.items()})
    return torch.zeros(count, dtype=torch.int64, device=device) if num_classes else None


class NullCondition(nn.Module):
    """A network's own "no condition": one row, saved with the weights, unknown until it is kept.

    Args:
        shapes: of one example, by name.
    """

    known: Tensor

    def __init__(self, shapes: Shapes):
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        for name, shape in self.shapes.items():
            self.register_buffer(f"row_{name}", torch.zeros(1, *shape))
        self._is_known = False
        self.register_load_state_dict_post_hook(_loaded)

    @property
    def row(self) -> Condition | None:
        """None while it is not known."""
        return Condition({name: getattr(self, f"row_{name}") for name in self.shapes}) if self._is_known else None

    def keep(self, condition: Condition) -> None:
        """ValueError for other names or shapes."""
        refuse_unlike(self.shapes, condition.shapes, "null condition")
        for name, each in condition.tensors.items():
            getattr(self, f"row_{name}").copy_(each[:1])
        self.known.fill_(True)
        self._is_known = True


def _loaded(module: nn.Module, _incompatible: object) -> None:
    assert isinstance(module, NullCondition)
    if not module.known.is_meta:
        module._is_known = bool(module.known)


class Prompts(nn.Module):
    """Prompts by number, 0 .. n - 1, and what they are as a `Condition`: what a text-conditional model is sampled with.

    Args:
        texts: the prompts themselves, for pictures and reports.
        condition: a row for each.
        labels: the class that images of each belong to, for rewards and figures by class; None where that is not known.
    """

    def __init__(self, texts: Sequence[str], condition: Condition, labels: Sequence[int] | None = None):
        super().__init__()
        if labels is not None and len(labels) != len(texts):
            raise ValueError(f"Prompts: {len(texts)} texts and {len(labels)} labels")
        self.labels = None if labels is None else tuple(labels)
        if len(texts) != len(condition):
            raise ValueError(f"Prompts: {len(texts)} texts and {len(condition)} rows")
        self.texts, self.names = tuple(texts), tuple(condition.tensors)
        for name, each in condition.tensors.items():
            self.register_buffer(f"row_{name}", each, persistent=False)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def condition(self) -> Condition:
        return Condition({name: getattr(self, f"row_{name}") for name in self.names})

    def forward(self, numbers: Int64[Tensor, " b"]) -> Condition:
        """The rows of these prompts."""
        return self.condition[numbers]

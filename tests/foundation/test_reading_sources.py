"""What is read from source files is what the imports give, and a mistake told from them is told in the same words."""

import sys

import pytest

from lightning_diff.data import Data
from lightning_diff.foundation import sources
from lightning_diff.foundation.annotations import ANYTHING
from lightning_diff.foundation.binding import bind, locate, signature
from lightning_diff.foundation.errors import UserError
from lightning_diff.foundation.source_check import refuse_by_source
from lightning_diff.foundation.source_signatures import parameters
from lightning_diff.runs import recipe

ROOMS = (
    "callbacks",
    "data",
    "ema",
    "learning_rate",
    "metrics",
    "modules",
    "nets",
    "noise",
    "objectives",
    "oracle",
    "precision",
    "rewards",
    "rollouts",
    "samplers",
    "schedules",
    "tangent",
    "weighting",
)
FOREIGN = ("lightning.Trainer", "lightning.pytorch.callbacks.Timer", "torch.optim.Adam", "torch.optim.SGD")
PARTS = """
import functools
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

from lightning_diff.data import Data
from torch import nn


def doubled(function):
    def outer(*arguments):
        return function(*arguments)
    return outer


def same(function):
    @functools.wraps(function)
    def outer(*arguments, **named):
        return function(*arguments, **named)
    return outer


class Plain:
    def __init__(self, a, /, b: int, *rest, c: "float | None" = None, d: Literal["x", "y"] = "x", **others): ...
class Inherits(Plain):
    pass
class Wrapped:
    @same
    def __init__(self, a: int, b: dict[str, int] | None = None): ...
class Hidden:
    @doubled
    def __init__(self, a): ...
class Made(type):
    def __call__(cls, whatever): ...
class WithMetaclass(metaclass=Made):
    def __init__(self, a): ...
class New:
    def __new__(cls, *anything): return super().__new__(cls)
    def __init__(self, a, *others): ...
class Empty:
    pass
class Network(nn.Module):
    pass
@dataclass
class Base:
    a: int
    kept: ClassVar[int] = 3
    _: KW_ONLY
    b: float = 1.0
@dataclass
class Child(Base):
    c: list[int] = field(default_factory=list)
    e: str = field(default="e", kw_only=True)
    f: int = field(init=False, default=0)
@dataclass
class Mine(Data):
    path: str
    sizes: Mapping[str, int] | None = None
@same
def function(a: int, b=3, *, c: bool): ...
class Signed:
    __signature__ = None
    def __init__(self, a): ...
class Patched:
    def __init__(self, a): ...
Patched.__init__ = Wrapped.__init__
with open(__file__):
    class Inside:
        def __init__(self, a: int = 3): ...
if True:
    def twice(a): ...
else:
    def twice(b): ...
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The name of an importable file with every sort of signature."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "parts_of_sources.py").write_text(PARTS)
    sys.path.insert(0, str(folder))
    yield "parts_of_sources"
    sys.path.remove(str(folder))
    sys.modules.pop("parts_of_sources", None)


def agree(path: str) -> bool:
    """Whether the file's signature is the imported one's; False where the file does not settle it."""
    defined = sources.find(path)
    read = None if defined is None else parameters(defined)
    if read is None:
        return False
    imported = signature(locate(path, "key"))
    assert imported is not None, path

    def shape(found):
        listed = [(name, p.kind, p.default is p.empty, p.default is None) for name, p in found.items()]
        by_name = sorted(each for each in listed if each[1] is each[1].KEYWORD_ONLY)  # whose order nothing depends on
        return [each for each in listed if each[1] is not each[1].KEYWORD_ONLY], by_name

    assert shape(read) == shape(imported), path
    for name, parameter in read.items():
        if parameter.annotation is not ANYTHING and parameter.annotation is not parameter.empty:
            assert parameter.annotation == imported[name].annotation, (path, name)
    return True


@pytest.mark.parametrize("room", ROOMS)
def test_the_signatures_of_the_package_are_read_as_they_are(room):
    here = sources.source(f"lightning_diff.{room}")
    names = here.exported or [name for name, bound in here.bindings.items() if not isinstance(bound[0], str)]
    known = [name for name in names if name[0] != "_" and callable(getattr(sys.modules[locate_room(room)], name, None))]
    unsettled = [name for name in known if not agree(f"lightning_diff.{room}.{name}")]
    assert len(unsettled) < len(known) / 2, unsettled  # protocols, named tuples and type aliases


def locate_room(room: str) -> str:
    __import__(f"lightning_diff.{room}")
    return f"lightning_diff.{room}"


@pytest.mark.parametrize("path", FOREIGN)
def test_signatures_of_libraries_too(path):
    assert agree(path)


@pytest.mark.parametrize(
    "name", ["Plain", "Inherits", "Wrapped", "Empty", "Network", "Base", "Child", "Mine", "Inside", "function"]
)
def test_every_sort_of_signature(parts, name):
    assert agree(f"{parts}.{name}")


@pytest.mark.parametrize("name", ["Hidden", "WithMetaclass", "New", "Signed", "Patched", "twice", "nothing"])
def test_what_the_text_does_not_settle_is_left_to_the_import(parts, name):
    assert not agree(f"{parts}.{name}")


@pytest.mark.parametrize(
    ("node", "hint"),
    [
        ({"_target_": "parts_of_sources.Mine", "batch_size": 3, "pth": "x"}, Data),
        ({"_target_": "parts_of_sources.Mine", "batch_size": 3}, Data),
        ({"_target_": "parts_of_sources.Mine", "batch_size": "many", "path": "x"}, Data),
        ({"_target_": "parts_of_sources.Mine", "batch_size": True, "path": "x"}, Data),
        ({"_target_": "parts_of_sources.Mine", "batch_size": 2, "path": "x", "sizes": {"a": "b"}}, Data),
        ({"_target_": "parts_of_sources.Wrapped", "a": 1, "b": {"c": None}}, ANYTHING),
        ({"_target_": "parts_of_sources.Child", "a": 1, "f": 2}, ANYTHING),
        ({"_target_": "parts_of_sources.function", "a": 1, "x": {"_target_": "torch.nn.Linear"}}, ANYTHING),
    ],
)
def test_a_mistake_is_told_in_the_words_of_the_import(parts, node, hint):
    messages = []
    for tell in (
        lambda: refuse_by_source(node, "key", () if hint is ANYTHING else ("lightning_diff.data.Data",)),
        lambda: bind(node, hint, "key"),
    ):
        with pytest.raises(UserError) as error:
            tell()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", recipe.packaged())
def test_nothing_right_is_refused(name):
    made = recipe.compose(name)
    for part in ("data", "model", "callbacks"):
        refuse_by_source(made[part], part)

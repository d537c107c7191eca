"""A node is bound against its target's signature: what fits is converted and built, what does not is a one-line error."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Number
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest
import torch
from beartype.door import is_bearable
from beartype.vale import Is
from messages import tells
from torch import nn

from lightning_diff.foundation.annotations import describe, fits
from lightning_diff.foundation.binding import bind, construct, locate
from lightning_diff.foundation.errors import UserError
from lightning_diff.foundation.extras import how_to_install
from lightning_diff.nets import DiT
from lightning_diff.noise import NoiseLaw


class Law(Protocol):
    def icdf(self, u: float) -> float: ...


class Normal:
    def __init__(self, mean: float = 0.0, std: float = 1.0):
        if std <= 0:
            raise ValueError(f"Normal: std must be positive,\n got {std}")
        self.mean, self.std = mean, std

    def icdf(self, u: float) -> float:
        return u


class Net(nn.Module):
    def __init__(self, shape: Sequence[int], channels: int = 8, depths: tuple[int, ...] = (1,), num_classes: int = 0):
        super().__init__()
        self.shape, self.channels, self.depths, self.num_classes = shape, channels, depths, num_classes


class Model:
    def __init__(
        self,
        net: nn.Module,
        *,
        law: Law | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        laws: Sequence[Law] = (),
        named: Mapping[str, Law] | None = None,
        time: Literal["edm", "trigflow"] = "edm",
        folder: Path | None = None,
        rate: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        flip: bool = False,
        either: int | float | str = 0,
        sizes: Sequence[int] | None = None,
        share: Annotated[float, Is[lambda x: 0 <= x <= 1]] = 0.5,
        anything: Any = None,
        implicit: int = None,  # noqa: RUF013 (as users write it)
        unannotated=None,
    ):
        self.__dict__.update(locals())


def takes_all(first: int, **others: Any) -> dict[str, Any]:
    return {"first": first, **others}


def normal() -> Normal:
    return Normal()


def target(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"test_binding.{name}", **arguments}


NET = target("Net", shape=[1, 8, 8])


def made(**arguments: Any) -> Any:
    return construct(bind(target("Model", **({"net": NET} | arguments)), Any, "model"))


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", 1, 1.0),
        ("betas", [0, 0.5], (0.0, 0.5)),
        ("folder", "a/b", Path("a/b")),
        ("folder", None, None),
        ("time", "trigflow", "trigflow"),
        ("either", 3, 3),
        ("either", 0.5, 0.5),
        ("either", "x", "x"),
        ("sizes", [1, 2], [1, 2]),
        ("sizes", None, None),
        ("share", 1, 1.0),
        ("anything", {"a": [1, None]}, {"a": [1, None]}),
        ("implicit", None, None),
        ("unannotated", "x", "x"),
    ],
)
def test_values_are_converted_where_nothing_is_lost(name, value, expected):
    result = getattr(made(**{name: value}), name)
    assert result == expected
    assert type(result) is type(expected)


def test_nodes_are_built_from_the_inside_out_in_lists_and_mappings():
    model = made(
        law=target("Normal", mean=1),
        laws=[target("Normal"), target("Normal", std=2)],
        named={"a": target("normal")},
        anything=[{"b": target("Normal", mean=3)}],
    )
    assert model.net.shape == [1, 8, 8]
    assert model.law.mean == 1.0
    assert [law.std for law in model.laws] == [1.0, 2.0]
    assert model.named["a"].mean == 0.0
    assert model.anything[0]["b"].mean == 3.0


def test_a_partial_waits_for_its_missing_arguments():
    model = made(optimizer={"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1, "betas": [0.5, 0.9]})
    assert isinstance(model.optimizer, partial)
    optimizer = model.optimizer([torch.zeros(1, requires_grad=True)])
    assert optimizer.defaults["lr"] == 1.0
    assert optimizer.defaults["betas"] == (0.5, 0.9)


def test_extra_keys_reach_a_target_that_takes_any():
    assert construct(bind(target("takes_all", first=1, second=target("Normal")), Any, "x"))["second"].std == 1.0


def test_names_that_will_be_filled_in_may_be_missing_at_every_depth():
    node = target("Model", net=target("Net"))
    assert bind(node, Any, "model", later=("shape",)).arguments["net"].arguments == {}


def test_binding_calls_nothing():
    bind(target("Normal", std=-1), Any, "law")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flipp": True}, "model.flipp: ... test_binding.Model ... flip"),
        (
            {"net": target("Net", shape=[1], chanels=3)},
            "model.net.chanels: ... test_binding.Net ... channels",
        ),
        (
            {"law": target("Normal", zzz=3)},
            "model.law.zzz: ... test_binding.Normal ... mean, std",
        ),
        ({"net": target("Net")}, "model.net.shape: missing ... test_binding.Net"),
        ({"rate": "fast"}, "model.rate: ... float ... 'fast'"),
        ({"rate": True}, "model.rate: ... float ... true"),
        ({"rate": None}, "model.rate: ... float ... null"),
        ({"flip": 1}, "model.flip: ... bool ... 1"),
        ({"net": target("Net", shape=[1], channels=8.5)}, "model.net.channels: ... int ... 8.5"),
        ({"sizes": 3}, "model.sizes: ... a list of int or null ... 3"),
        ({"sizes": [1, "x"]}, "model.sizes.1: ... int ... 'x'"),
        ({"betas": [0.5]}, "model.betas: ... a list of float, float ... [0.5]"),
        ({"folder": 3}, "model.folder: ... Path or null ... 3"),
        ({"time": "edn"}, "model.time: ... 'edn' ... edm, trigflow ... edm"),
        ({"time": 3}, "model.time: ... edm, trigflow ... 3"),
        ({"either": [1]}, "model.either: ... int or float or str ... [1]"),
        ({"share": 2.0}, "model.share: ... float ... limits ... 2.0"),
        ({"net": target("Normal")}, "model.net: ... Module ... test_binding.Normal"),
        ({"net": 3}, "model.net: ... Module ... 3"),
        ({"net": {"channels": 3}}, "model.net: ... Module ... _target_"),
        ({"net": {"_taget_": "x"}}, "model.net._taget_: ... _target_"),
        ({"net": NET | {"_partial_": True}}, "model.net: ... Module ... test_binding.Net ... remove _partial_"),
        ({"net": NET | {"_partial_": "yes"}}, "model.net._partial_: ... true or false ... 'yes'"),
        ({"law": NET}, "model.law: ... Law or null ... test_binding.Net ... icdf"),
        ({"laws": [target("Normal"), NET]}, "model.laws.1: ... Law ... test_binding.Net ... icdf"),
        (
            {"optimizer": {"_target_": "torch.optim.Adam"}},
            "model.optimizer: ... Callable ... torch.optim.Adam ... _partial_: true",
        ),
        ({"net": target("normal")}, "model.net: ... Module ... test_binding.normal"),
        ({"law": target("Normal", std=0)}, "model.law: Normal: ... std ... 0.0"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_its_key(arguments, message):
    with pytest.raises(UserError) as error:
        made(**arguments)
    assert tells(str(error.value), message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_binding.Nett", "... test_binding.Nett ... test_binding.Net"),
        (
            "lightning_dif.noise.LogNormal",
            "... lightning_dif.noise.LogNormal ... lightning_diff.noise.LogNormal",
        ),
        (
            "lightning_diff.noize.LogNormal",
            "... lightning_diff.noize.LogNormal ... lightning_diff.noise.LogNormal",
        ),
        (
            "lightning_diff.noise.Lognormal",
            "... lightning_diff.noise.Lognormal ... lightning_diff.noise.LogNormal",
        ),
        ("lightning_diff.noise", "lightning_diff.noise ... module"),
        ("qqqqqq.x", "... qqqqqq.x ... folder"),
        ("a b", "... import path ... 'a b'"),
        (3, "... import path ... 3"),
    ],
)
def test_a_target_that_does_not_import(name, message):
    with pytest.raises(UserError) as error:
        locate(name, "model._target_")
    assert tells(str(error.value), f"model._target_: {message}")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = = 1", "... broken_part ... SyntaxError: ... broken_part.py, line 1"),
        ("import nowhere_to_be_found", "... broken_part ... No module named 'nowhere_to_be_found'"),
        ("1 / 0", "... broken_part ... ZeroDivisionError"),
    ],
)
def test_a_users_module_that_fails_is_named(tmp_path, monkeypatch, code, message):
    (tmp_path / "broken_part.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        locate("broken_part.Thing", "data._target_")
    assert tells(str(error.value), f"data._target_: {message}")


def test_targets_without_a_signature_are_given_what_the_recipe_says():
    assert construct(bind({"_target_": "torch.zeros", "size": [2]}, Any, "x")).shape == (2,)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "int"),
        (float | None, "float or null"),
        (Sequence[int], "a list of int"),
        (tuple[float, ...], "a list of float"),
        (Literal["a", 1], "one of a, 1"),
        (Sequence[Literal["a"]] | nn.Module, "a list of one of a or Module"),
    ],
)
def test_annotations_are_described_as_a_person_would(hint, text):
    assert describe(hint) == text


@pytest.mark.parametrize(
    ("value", "hint", "node"),
    [
        (DiT.__name__, nn.Module, "{_target_: lightning_diff.nets.DiT}"),
        ("unet", nn.Module | None, "{_target_: lightning_diff.nets.UNet}"),
        ("lightning_diff.nets.MLP", nn.Module, "{_target_: lightning_diff.nets.MLP}"),
        ("Adam", Callable[..., torch.optim.Optimizer], "{_target_: torch.optim.Adam, _partial_: true}"),
        ("LogNormal", NoiseLaw, "{_target_: lightning_diff.noise.LogNormal}"),
    ],
)
def test_a_class_by_its_name_alone_is_offered_as_a_node(value, hint, node):
    with pytest.raises(UserError) as error:
        bind(value, hint, "model.part")
    assert tells(str(error.value), f"model.part: ... {value} ... did you mean ...")
    assert node in str(error.value)


@pytest.mark.parametrize(("value", "hint"), [("nothing of ours", nn.Module), ("LogNormal", nn.Module), ("DiT", int)])
def test_what_would_not_fit_is_not_offered(value, hint):
    with pytest.raises(UserError) as error:
        bind(value, hint, "key")
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("package", ["torchvision", "diffusers", "datasets"])
def test_a_package_that_is_not_there_is_named_rather_than_something_like_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("lightning_diff.foundation.binding.is_installed", lambda name: False)
    with pytest.raises(UserError) as error:
        locate(f"{package}.sub.Name", "data.dataset._target_")
    way = how_to_install(package)
    assert tells(str(error.value), f"data.dataset._target_: ... {package} ... not installed ... {way}")
    assert "did you mean" not in str(error.value)


def test_what_is_decided_without_beartype_is_what_beartype_says():
    hints = [int, str, dict, Path, Normal, type(None), nn.Module, Sequence, object, Mapping[str, int], list[int]]
    hints += [tuple[float, float], Sequence[str], Literal[1, "a"], Literal[True], Number]
    values = [None, 1, True, 1.5, "a", "b", [1], ["a"], (1.0, 2.0), (1, 2), {}, {"a": 1}, {1: 1}, Normal(), Path("a")]
    for hint in hints:
        for value in values:
            assert fits(value, hint) == is_bearable(value, hint), (value, hint)

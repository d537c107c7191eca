"""Bars in a notebook's cell, whose kernel is played by a stand-in that keeps what is displayed."""

import re
import sys
import types

import pytest

from lightning_diff.foundation import progress
from lightning_diff.foundation.progress import stage


@pytest.fixture
def cell(monkeypatch):
    """The outputs of the cell: the newest content of each."""
    outputs = []

    class DisplayHandle:
        def display(self, content, raw):
            assert raw
            self.number = len(outputs)
            outputs.append(content)

        def update(self, content, raw):
            assert raw
            outputs[self.number] = content

    module = types.ModuleType("IPython.display")
    module.DisplayHandle = DisplayHandle
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "REDRAW", -1.0)
    return outputs


def test_all_bars_are_one_output_that_is_replaced(cell, capsys):
    with stage("training", 200, "image", keep=True) as bar:
        for done in range(1, 201):
            bar.reach(done, "loss 0.5")
        with stage("sampling", 4, "call") as other:
            other.advance(2)
            first, second = cell[0]["text/plain"].splitlines()
            assert re.fullmatch(r"training ━+ 100% 200/200 \[.*, loss 0\.5\]", first)
            assert re.fullmatch(r"sampling ━+ +50% 2/4 \[.*\]", second)
        print("said meanwhile")
    assert len(cell) == 1
    (line,) = cell[0]["text/plain"].splitlines()
    assert re.fullmatch(r"training ━+ 100% 200/200 \[.*, loss 0\.5\]", line)
    assert capsys.readouterr() == ("said meanwhile\n", "")


def test_the_next_bar_is_a_new_output_and_the_last_state_stays(cell):
    for name in ("one", "two"):
        with pytest.raises(RuntimeError), stage(name, 4, "call", start=1):
            raise RuntimeError
    assert [output["text/plain"].split()[0] for output in cell] == ["one", "two"]
    assert all(" 25% 1/4 [" in output["text/plain"] for output in cell)


def test_a_bar_beside_others_takes_the_place_of_one_that_is_over(cell):
    with stage("all", 3, "call", keep=True):
        for _ in range(3):
            with stage("part", 4, "call") as bar:
                bar.advance(4)
        assert len(cell[0]["text/plain"].splitlines()) == 1
    assert len(cell) == 1

"""Several callbacks of one kind: each writes what no other writes, or is refused before anything is there."""

import inspect

import pytest
from lightning.pytorch import Trainer
from messages import tells
from test_sample_grid import pictures
from test_trackers import IMAGES, Recorder, recorder  # noqa: F401 (a fixture)

from lightning_diff import callbacks
from lightning_diff.callbacks import Evaluate, SampleGrid
from lightning_diff.callbacks.base import StepCallback
from lightning_diff.callbacks.several import Named, name_of, refuse_clashes
from lightning_diff.foundation.errors import UserError

GRID = "{_target_: lightning_diff.callbacks.SampleGrid, columns: 2, rows: 2, steps: %s}"
EVALUATE = "{_target_: lightning_diff.callbacks.Evaluate, steps: 2, feature: pixels, n: %s}"
KINDS = [kind for name in callbacks.__all__ if inspect.isclass(kind := getattr(callbacks, name))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_there_is_one_of_a_kind_or_each_has_a_name(kind):
    """Every callback of ours says which it is."""
    assert bool(vars(kind).get("ALONE")) != ("name" in inspect.signature(kind).parameters)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if vars(kind).get("ALONE")], ids=lambda kind: kind.__name__)
def test_two_of_a_kind_of_which_there_is_one_are_refused(kind):
    class Own(kind):
        pass

    with pytest.raises(UserError) as error:
        refuse_clashes([kind.__new__(kind), Own.__new__(Own)])
    assert tells(str(error.value), f"callbacks: ... {kind.__name__} ... {vars(kind)['ALONE']} ...")


def test_before_the_run_folder(train, tmp_path):
    two = "{_target_: lightning_diff.callbacks.NoiseLevels}"
    with pytest.raises(UserError) as error:
        train("two", f"callbacks=[{two}, {two}]")
    assert tells(str(error.value), f"{tmp_path / 'two.yaml'}: callbacks: ... NoiseLevels ... noise_levels.csv ...")
    assert not (tmp_path / "runs/two").exists()


def test_names():
    def names(*given):
        chosen = [SampleGrid(name=name) for name in given]
        trainer = Trainer(callbacks=[*chosen], logger=False, accelerator="cpu", enable_checkpointing=False)
        return [name_of(each, SampleGrid, trainer) for each in chosen]

    assert names(None) == [""]
    assert names("a") == ["a"]
    assert names(None, None, "a", None) == ["", "2", "a", "3"]
    assert names(None, "2", None) == ["", "2", "3"]
    with pytest.raises(UserError) as error:
        refuse_clashes([SampleGrid(name="a"), Evaluate(name="a"), StepCallback(), StepCallback(), SampleGrid(name="a")])
    assert tells(str(error.value), "callbacks: ... SampleGrid ... a ...")
    for bad in ("", "a/b", "..", " a"):
        with pytest.raises(ValueError, match="name"):
            SampleGrid(name=bad)
    assert isinstance(SampleGrid(), Named)


def test_each_picture_has_a_place(train, recorder):  # noqa: F811
    kinds = [GRID % 1, GRID % 3, GRID % "2, name: short"]
    folder = train("several", *IMAGES, recorder, f"callbacks=[{', '.join(kinds)}]", "trainer.max_steps=2")
    paths = [folder / "samples" / own / "000000000032.png" for own in ("", "2", "short")]
    assert len({path.read_bytes() for path in paths}) == 3
    (tracker,) = Recorder.made
    assert [key for key, _, _ in tracker.pictures] == ["samples", "samples/2", "samples/short"]
    alone = pictures(train("alone", *IMAGES, f"callbacks=[{GRID % 1}]", "trainer.max_steps=2"))
    assert alone == {"32": paths[0].read_bytes()}


def test_each_figure_has_a_place(train, recorder):  # noqa: F811
    kinds = [EVALUATE % 64, EVALUATE % 32, EVALUATE % "64, name: again"]
    train("several", recorder, f"callbacks=[{', '.join(kinds)}]", "trainer.max_steps=2")
    (tracker,) = Recorder.made
    values = {name: value for _, row in tracker.rows for name, value in row.items() if "frechet_pixels/" in name}
    assert list(values) == [f"eval/frechet_pixels/{place}" for place in ("heun, 2 steps", "heun, 2 steps (2)", "again")]
    first, fewer, again = values.values()
    assert first == again != fewer

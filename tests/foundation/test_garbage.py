"""The collector waits while a program imports, and works as usual when its work begins; in a library's process it is left alone."""

import gc

import pytest

from lightning_diff import cli
from lightning_diff.foundation import garbage


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    yield before
    garbage.take_up()
    gc.set_threshold(*before)
    gc.unfreeze()


def test_what_is_imported_meanwhile_is_not_looked_at_again(thresholds):
    garbage.put_off()
    garbage.put_off()
    assert gc.get_threshold()[0] == garbage.ENOUGH
    garbage.take_up()
    assert gc.get_threshold() == thresholds
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    later = [[] for _ in range(1000)]
    garbage.take_up()  # once is enough: what a training makes is collected
    assert gc.get_freeze_count() <= frozen
    assert len(later) == 1000


def test_training_and_sampling_begin_with_the_collector_at_work(train, thresholds):
    from lightning_diff.runs.sample import sample
    from lightning_diff.runs.sampler_settings import SamplerSettings

    garbage.put_off()
    run = train("run")
    assert gc.get_threshold() == thresholds
    garbage.put_off()
    sample(run, SamplerSettings(steps=1), 2)
    assert gc.get_threshold() == thresholds


def test_a_command_in_somebody_else_s_process_leaves_the_collector_alone(thresholds, capsys):
    assert cli.main(["--version"]) == 0
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
    assert capsys.readouterr().out

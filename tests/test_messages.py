import pytest
from messages import tells

MESSAGE = "a.yaml: model.nett: unknown key of Model; did you mean net?"


@pytest.mark.parametrize("facts", ["a.yaml: model.nett", "a.yaml: model.nett: ... Model ... net", "... key ... net"])
def test_the_facts_of_a_message(facts):
    assert tells(MESSAGE, facts)


@pytest.mark.parametrize("facts", ["model.nett", "a.yaml: model.net", "... Model ... nets", "... mean ... Model"])
def test_the_facts_of_another_fault(facts):
    assert not tells(MESSAGE, facts)

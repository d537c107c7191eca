"""Laws of every versioned record: what is written comes back; what is newer, incomplete or of another type is one line."""

import json
import os
from dataclasses import asdict, dataclass, field

import pytest

from lightning_diff.artifacts import record
from lightning_diff.foundation.errors import UserError

NODE = {"_target_": "os.system", "command": "false"}  # reading it must not even import what it names


@dataclass(frozen=True)
class Measured:
    net: record.Node
    sigmas: tuple[float, ...]
    protocol: record.Protocol
    steps: int
    levels: dict[int, list[float]] = field(default_factory=dict)
    kind: str = "old"


WHOLE = Measured(NODE, (80.0, 0.0), {"seed": 1, "reward": "brightness"}, 3, {2: [0.5]}, "new")


@pytest.fixture
def path(tmp_path):
    record.write(tmp_path / "record.json", asdict(WHOLE), version=2)
    return tmp_path / "record.json"


def read(path):
    return record.read(path, Measured, 2, "measurement")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_comes_back(path):
    assert read(path) == WHOLE
    assert json.loads(path.read_text())["format"] == 2


def test_an_older_file_has_the_defaults_of_what_it_lacks_and_a_newer_field_is_passed_over(path):
    content = json.loads(path.read_text())
    del content["levels"], content["kind"]
    path.write_text(json.dumps(content | {"format": 1, "later": True}))
    assert (read(path).levels, read(path).kind) == ({}, "old")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 3}, "newer version of lightning_diff (format 3; this one reads up to 2)"),
        ({"format": None}, "measurement"),
        ({"steps": 3.5}, "steps"),
        ({"steps": NODE}, "steps"),
        ({"sigmas": [1.0, "x"]}, "sigmas.1"),
        ({"levels": {"two": [0.5]}}, "two"),
        ({"protocol": {"seed": {"deep": [NODE]}}}, "protocol.seed.deep.0"),
    ],
)
def test_a_field_that_is_not_right_is_named_with_the_file(path, changes, named):
    edit(path, **changes)
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["net", "sigmas", "protocol", "steps", "format"])
def test_a_missing_field_is_named_with_the_file(path, name):
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=name) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\x00", b"\xff"])
def test_a_file_that_is_no_record_is_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="measurement") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_old_record(path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"record\.json.*No space left"):
        record.write(path, asdict(WHOLE) | {"steps": 4}, version=2)
    assert read(path) == WHOLE
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]

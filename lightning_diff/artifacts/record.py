"""Versioned records in JSON: written whole; read only in a format that is known, each field of the type it should have.

A record is a dataclass; its file has the number `format` beside the fields. A field with a default may be missing from older files,
and what this version does not know is passed over, so that `format` is raised only when a program that reads the number before
could not read the new record.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from ..foundation.atomic import replacing
from ..foundation.binding import Mismatch, bind, is_node
from ..foundation.errors import UserError
from ..foundation.formats import refuse_newer

Node = Annotated[dict[str, Any], "a recipe's node"]  # bound by whoever builds from it
Protocol = dict[str, Any]  # what a result depends on, by name: numbers and names
Record = TypeVar("Record")


def as_json(fields: Mapping[str, object], version: int, indent: int | None = None) -> str:
    """The record as text."""
    return json.dumps({"format": version, **fields}, indent=indent)


def write(path: Path, fields: Mapping[str, object], version: int) -> None:
    """Write a record, whole or not at all. UserError where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(as_json(fields, version, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def read(path: Path, kind: type[Record], version: int, name: str) -> Record:
    """The record in a file; for arguments and errors see `parse`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no {name} ({type(error).__name__}: {error})") from error
    return parse(text, kind, version, name, path)


def parse(text: str, kind: type[Record], version: int, name: str, source: Path) -> Record:
    """A record from its JSON.

    Args:
        text: JSON.
        kind: the record's dataclass.
        version: the newest format that is read.
        name: of this kind of record, for errors.
        source: the file, for errors.

    Raises:
        UserError: of a newer format, no such record, a field is missing or of another type.
    """
    try:
        content = json.loads(text)
        refuse_newer(source, content["format"], version)
        hints = typing.get_type_hints(kind, include_extras=True)
        required = [field.name for field in dataclasses.fields(kind) if _is_required(field)]  # type: ignore[arg-type]
        if missing := [field for field in required if field not in content]:
            raise UserError(f"{source}: is no {name}: {missing[0]} is missing")
        return kind(**{field: _bound(content[field], hint, field) for field, hint in hints.items() if field in content})
    except Mismatch as error:
        raise UserError(f"{source}: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{source}: is no {name} ({type(error).__name__}: {error})") from error


def _bound(value: object, hint: object, field: str) -> object:
    """The value, if it is what the field's annotation asks for; only a field that is a `Node` may have something built."""
    if is_node(value) and Node in (hint, *typing.get_args(hint)):
        return value
    _refuse_nodes(value, field)
    if typing.get_origin(hint) is dict and typing.get_args(hint)[0] is int and isinstance(value, dict):
        value = {int(key): item for key, item in value.items()}  # JSON has no other keys than strings
    return bind(value, hint, field)


def _refuse_nodes(value: object, key: str) -> None:
    """Binding a node imports what it names, which no plain value needs."""
    if is_node(value):
        raise Mismatch(f"{key}: expected plain values, got a mapping with _target_")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        _refuse_nodes(item, f"{key}.{name}")


def _is_required(field: "dataclasses.Field[object]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

"""A safetensors file of embeddings: a row for each text, with the encoder's identity and settings and checksums in its metadata."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..condition import Condition
from ..foundation import row_files
from ..foundation.row_files import Table
from .protocol import TextEncoder

DTYPES = {  # safetensors' names
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL",
}  # fmt: skip
SIZES = {name: dtype.itemsize for dtype, name in DTYPES.items()}
UNKNOWN = "00000000"  # in a checksum's place until all are known
METADATA = "__metadata__"


def about(encoder: TextEncoder) -> dict[str, str]:
    """Who encoded: fingerprint, and settings by name, those of tokenizers and encoders among them, as far as it tells them.

    A `TextEncoder` may have `identities()`: component -> hexadecimal digits that change with its files.
    """
    node = {name: value for name, value in encoder.node().items() if name != "device"}
    told = {name.strip("_"): _in_short(value) for name, value in node.items()}
    identities: Mapping[str, str] = getattr(encoder, "identities", dict)()
    return {"encoder": encoder.fingerprint(), "settings": json.dumps(told | dict(identities))}


def table(row: Condition, rows: int, block: int, told: Mapping[str, str], checks: Sequence[int] = ()) -> Table:
    """The file's layout: length of the header, header, tensors one after another.

    Args:
        row: one.
        rows: how many.
        block: of them that are written at a time.
        told: see `about`.
        checks: crc32 of each block, once they are known.
    """
    tensors = in_order(row)
    entries, total = {}, 0
    for name, each in tensors.items():
        size = rows * math.prod(each.shape[1:]) * each.element_size()
        entries[name] = {
            "dtype": DTYPES[each.dtype],
            "shape": [rows, *each.shape[1:]],
            "data_offsets": [total, total + size],
        }
        total += size
    hexadecimal = [f"{check:08x}" for check in checks] or [UNKNOWN] * -(-rows // block)
    text = json.dumps({METADATA: {**told, "block": str(block), "checks": " ".join(hexadecimal)}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    widths = tuple(math.prod(each.shape[1:]) * each.element_size() for each in tensors.values())
    return Table("made.safetensors", len(text).to_bytes(8, "little") + text, widths, rows, block)


def in_order(row: Condition) -> dict[str, Tensor]:
    """The tensors as the file has them one after another: aligned."""
    return dict(sorted(row.tensors.items(), key=lambda item: -item[1].element_size()))


def columns(part: Condition, row: Condition) -> list[bytes]:
    """The bytes of some rows, in the dtypes of `row`."""
    made = {name: part.tensors[name].to("cpu", each.dtype).contiguous() for name, each in in_order(row).items()}
    return [each.view(-1).view(torch.uint8).numpy().tobytes() for each in made.values()]


def read(file: Path, count: int) -> tuple[dict[str, Tensor] | None, str]:
    """The rows, mapped; or None, and what is wrong with them, "" where there are none.

    Args:
        file: as `table` lays it out, or without metadata, as versions before wrote it.
        count: of rows.
    """
    if not file.is_file():
        return None, ""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        header, length = _header(file)
        told = header.pop(METADATA, {})
        if "checks" in told and (why := _damage(file, header, length, told)):
            return None, why
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"cannot be read ({' '.join(str(error).split())[:200]})"
    if not tensors or any(len(each) != count for each in tensors.values()):
        return None, f"does not have {count:,} rows"
    return tensors, ""


def differences(file: Path, told: Mapping[str, str]) -> list[str]:
    """In words, what of the encoder of a file is not what it is in this one: `dtype was float32 and is bfloat16`."""
    try:
        old = json.loads(_header(file)[0].get(METADATA, {}).get("settings", "{}"))
    except (OSError, ValueError, AttributeError):
        return []
    new = json.loads(told["settings"])
    return [f"{name} was {old[name]} and is {new[name]}" for name in new if name in old and old[name] != new[name]]


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and the bytes that it takes with its length."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header: dict[str, Any] = json.loads(content.read(min(length, file.stat().st_size)))
    return header, 8 + length


def _damage(file: Path, header: Mapping[str, Any], length: int, told: Mapping[str, str]) -> str:
    shapes = {name: each["shape"] for name, each in header.items()}
    rows = int(next(iter(shapes.values()))[0])
    widths = tuple(math.prod(shape[1:]) * SIZES[header[name]["dtype"]] for name, shape in shapes.items())
    layout = Table(file.name, b" " * length, widths, rows, int(told["block"]))
    return row_files.damage(file.parent, [layout], [int(check, 16) for check in told["checks"].split()])


def _in_short(value: object) -> str:
    """A setting in words; of lists and such some digits that change with them."""
    if value is None or isinstance(value, str | int | float):
        return str(value)
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

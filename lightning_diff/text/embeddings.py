"""Embeddings of texts, each encoded once and kept in a file that later runs map into memory.

    CACHE/text/<encoder>/<texts>.safetensors      by fingerprint of the encoder, and by hash of the distinct texts in order

The file holds a row for each text and, last, the null row. It is written as the texts are encoded, so that their number is not
limited by memory.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..condition import Condition
from ..foundation import caches, stopping
from ..foundation.atomic import replacing
from ..foundation.errors import UserError
from ..foundation.first_process import is_first_process
from ..foundation.progress import stage
from .protocol import TextEncoder

AT_ONCE = 64  # texts, between two writes
WORTH_SAYING = 2**24  # bytes of a file that is announced
DTYPES = {  # safetensors' names
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Embedded:
    """Texts and what an encoder makes of them.

    Args:
        rows: text -> number of its row.
        stored: the rows, in the encoder's own precision; perhaps mapped from a file.
        null: one row, float32.
    """

    rows: dict[str, int]
    stored: Condition
    null: Condition

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """The rows' numbers of these texts, int64."""
        return torch.tensor([self.rows[text] for text in texts], dtype=torch.int64)

    def condition(self, numbers: Tensor) -> Condition:
        """The rows of these numbers, float32 where they are real numbers."""
        return self.stored[numbers].to(torch.float32)


def embedded(encoder: TextEncoder, texts: Sequence[str]) -> Embedded:
    """The texts' embeddings and the null row, from the cache, or else made and put there.

    Where nothing can be written they are kept in memory.

    Raises:
        UserError: the disk is too small for them.
    """
    distinct = sorted(set(texts))
    file = _file(encoder, distinct)
    tensors = _read(file, len(distinct) + 1)
    if tensors is None:
        null = encoder.null()
        try:
            tensors = _written(file, encoder, distinct, null)
        except OSError:
            parts = [part for _, part in _parts(encoder, distinct, null)]
            tensors = Condition.cat(parts).tensors
        encoder.release()
    every = Condition(tensors)
    rows = {text: number for number, text in enumerate(distinct)}
    return Embedded(rows, every, every[slice(len(distinct), None)].to(torch.float32))


def _file(encoder: TextEncoder, texts: Sequence[str]) -> Path | None:
    key = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    try:
        place, _ = caches.folder()
    except OSError:
        return None
    return place / "text" / encoder.fingerprint()[:16] / f"{key[:32]}.safetensors"


def _read(file: Path | None, count: int) -> dict[str, Tensor] | None:
    """The rows in a file; None where it is not there or not whole."""
    if file is None or not file.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with suppress(OSError, SafetensorError):
        tensors = load_file(file)
        if tensors and all(len(each) == count for each in tensors.values()):
            return tensors
    return None


def _parts(encoder: TextEncoder, texts: Sequence[str], null: Condition) -> Iterator[tuple[int, Condition]]:
    """The number of the first row and the rows, `AT_ONCE` by `AT_ONCE`; the null row last."""
    shown = is_first_process() and len(texts) > AT_ONCE
    with stage("embedding prompts", len(texts), "prompt", shown=shown) as bar:
        for first in range(0, len(texts), AT_ONCE):
            stopping.check("batch")
            some = texts[first : first + AT_ONCE]
            yield first, encoder.encode(some)
            bar.advance(len(some))
    yield len(texts), null


def _written(file: Path | None, encoder: TextEncoder, texts: Sequence[str], null: Condition) -> dict[str, Tensor]:
    """The rows, in the file of safetensors' layout: length of the header, header, tensors one after another."""
    if file is None:
        raise OSError("no place to write")
    header, starts, total = _layout(null, len(texts) + 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(file.parent).free):
        raise UserError(
            f"{file.parent}: the embeddings of {len(texts):,} prompts take {total / 1e9:,.3g} GB, {free / 1e9:,.3g} GB are free; "
            f"set {caches.OWN} to a folder with more room, or take fewer tokens or a smaller dtype"
        )
    if total > WORTH_SAYING and is_first_process():
        print(f"embeddings of {len(texts):,} prompts: {total / 1e9:,.3g} GB in {file}", flush=True)
    with replacing(file) as temporary, temporary.open("wb") as out:
        out.write(header)
        for first, part in _parts(encoder, texts, null):
            for name, each in part.tensors.items():
                rows = each.to("cpu", null.tensors[name].dtype).contiguous()
                out.seek(len(header) + starts[name] + first * (rows.nbytes // len(rows)))
                out.write(rows.view(-1).view(torch.uint8).numpy().tobytes())
    tensors = _read(file, len(texts) + 1)
    if tensors is None:
        raise OSError(f"{file} was damaged while it was written")
    return tensors


def _layout(row: Condition, count: int) -> tuple[bytes, dict[str, int], int]:
    """Header, each tensor's first byte after it, and the number of bytes in all."""
    entries, starts, total = {}, {}, 0
    for name, each in sorted(row.tensors.items(), key=lambda item: -item[1].element_size()):  # aligned
        size = count * math.prod(each.shape[1:]) * each.element_size()
        entries[name] = {
            "dtype": DTYPES[each.dtype],
            "shape": [count, *each.shape[1:]],
            "data_offsets": [total, total + size],
        }
        starts[name], total = total, total + size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts, total

"""Embeddings of texts, each encoded once and kept in a file that later runs map into memory.

    CACHE/text/<encoder>/<texts>.safetensors      by fingerprint of the encoder, and by hash of the distinct texts in order

The file holds a row for each text and, last, the null row. It is written as the texts are encoded, so that their number is not
limited by memory, by one process or several, and goes on where a killed one was (`foundation.shared_work`).
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..condition import Condition
from ..foundation import caches, shared_work
from ..foundation.errors import UserError
from ..foundation.progress import stage
from ..foundation.row_files import Block
from ..foundation.shared_work import Work
from . import embeddings_file
from .protocol import TextEncoder

AT_ONCE = 64  # texts, between two writes
WORTH_SAYING = 2**24  # bytes of a file that is announced
MAX_GIB = 200.0


@dataclass(frozen=True)
class Embedded:
    """Texts and what an encoder makes of them.

    Args:
        rows: text -> number of its row.
        stored: the rows, in the encoder's own precision; perhaps mapped from a file.
        null: one row, float32.
        file: of the rows; None where they are in memory alone.
    """

    rows: dict[str, int]
    stored: Condition
    null: Condition
    file: Path | None = None

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """The rows' numbers of these texts, int64."""
        return torch.tensor([self.rows[text] for text in texts], dtype=torch.int64)

    def condition(self, numbers: Tensor) -> Condition:
        """The rows of these numbers, float32 where they are real numbers."""
        return self.stored[numbers].to(torch.float32)


def embedded(encoder: TextEncoder, texts: Sequence[str], *, max_gib: int | float = MAX_GIB) -> Embedded:
    """The texts' embeddings and the null row, from the cache, or else made and put there.

    Processes that need the same ones at the same time share the work. Where nothing can be written they are kept in memory.

    Args:
        encoder: that encodes.
        texts: any, in any order.
        max_gib: largest size of the file, GiB.

    Raises:
        UserError: they take more than max_gib, or the disk is too small for them.
    """
    distinct = sorted(set(texts))
    file = _file(encoder, distinct)
    tensors, _ = (None, "") if file is None else embeddings_file.read(file, len(distinct) + 1)
    if tensors is None:
        tensors = _made(file, encoder, distinct, max_gib)
        encoder.release()
    every = Condition(tensors)
    rows = {text: number for number, text in enumerate(distinct)}
    return Embedded(rows, every, every[slice(len(distinct), None)].to(torch.float32), file)


def _file(encoder: TextEncoder, texts: Sequence[str]) -> Path | None:
    key = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    try:
        place, _ = caches.folder()
    except OSError:
        return None
    return place / "text" / encoder.fingerprint()[:16] / f"{key[:32]}.safetensors"


def _made(file: Path | None, encoder: TextEncoder, texts: Sequence[str], max_gib: int | float) -> dict[str, Tensor]:
    """The rows, encoded: in the file, or in memory where there can be none."""
    null = encoder.null()
    size = (len(texts) + 1) * sum(each.nbytes for each in null.tensors.values())
    if size > max_gib * 2**30:
        raise UserError(
            f"data.max_gib: the embeddings of {len(texts):,} prompts would take {size / 2**30:,.3g} GiB, more than "
            f"{max_gib:g} GiB; raise it, or take fewer tokens or a smaller dtype"
        )
    try:
        return _written(file, encoder, texts, null)
    except OSError as error:
        if size > WORTH_SAYING and file is not None:
            raise UserError(
                f"{file}: embeddings cannot be written ({error.strerror or error}), {size / 1e9:,.3g} GB are needed, and what is "
                f"there is kept; make room, or set {caches.OWN} to a folder with more"
            ) from error
        parts = [encoder.encode(texts[first : first + AT_ONCE]) for first in range(0, len(texts), AT_ONCE)]
        return Condition.cat([*parts, null]).tensors


def _written(file: Path | None, encoder: TextEncoder, texts: Sequence[str], null: Condition) -> dict[str, Tensor]:
    """The rows, in the file. OSError where there can be none."""
    if file is None:
        raise OSError("no place to write")
    told, count = embeddings_file.about(encoder), len(texts) + 1
    layout = embeddings_file.table(null, count, AT_ONCE, told)
    file.parent.mkdir(parents=True, exist_ok=True)
    left = shared_work.bytes_left(file, layout.size)
    if left > (free := shutil.disk_usage(file.parent).free):
        raise UserError(
            f"{file.parent}: the embeddings of {len(texts):,} prompts take {left / 1e9:,.3g} GB, {free / 1e9:,.3g} GB are free; "
            f"set {caches.OWN} to a folder with more room, or take fewer tokens or a smaller dtype"
        )
    with Work(file, [layout], told["encoder"], lambda: _is_whole(file, count)) as work:
        if work.is_needed:
            _say(work, file, len(texts), told)
            for block in _with_bar(work):
                work.put(block, embeddings_file.columns(_encoded(encoder, texts, null, block), null))
            made = work.tables[0]
            work.publish(
                lambda folder: _finish(
                    folder / made.file,
                    embeddings_file.table(null, count, made.block, told, work.checks()).header,
                ),
                made.file,
            )
    tensors, why = embeddings_file.read(file, count)
    if tensors is None:
        raise OSError(f"{file}: {why or 'is gone'}, and was just written")
    return tensors


def _encoded(encoder: TextEncoder, texts: Sequence[str], null: Condition, block: Block) -> Condition:
    """The rows of a block; after the last text comes the null row."""
    some = texts[block.first : block.first + block.rows]
    parts = [encoder.encode(some[first : first + AT_ONCE]) for first in range(0, len(some), AT_ONCE)]
    return Condition.cat([*parts, null] if len(some) < block.rows else parts)


def _is_whole(file: Path, count: int) -> bool:
    """Says what is wrong with a file that is not."""
    tensors, why = embeddings_file.read(file, count)
    if why:
        print(f"{file}: {why}; embedding again", flush=True)
    return tensors is not None


def _say(work: Work, file: Path, count: int, told: dict[str, str]) -> None:
    """Before anything is encoded, by one process for all: what other embeddings of these texts differ in, and a large size."""
    if not work.speaks:
        return
    for other in sorted(file.parent.parent.glob(f"*/{file.name}")):
        if different := embeddings_file.differences(other, told):
            print(f"{other} does not do: {', '.join(different)}", flush=True)
    if work.rows_done:
        print(f"embedding {count:,} prompts: going on, {work.rows_done:,} are there", flush=True)
    elif work.tables[0].size > WORTH_SAYING:
        print(f"embeddings of {count:,} prompts: {work.tables[0].size / 1e9:,.3g} GB in {file}", flush=True)


def _with_bar(work: Work) -> Iterator[Block]:
    shown = work.speaks and work.rows > AT_ONCE
    with stage("embedding prompts", work.rows, "prompt", shown=shown, lines=True, start=work.rows_done) as bar:
        for block in work.missing():
            yield block
            bar.reach(work.rows_done)
        bar.reach(work.rows)


def _finish(file: Path, header: bytes) -> None:
    """The header with the checksums, as long as the one without."""
    with file.open("r+b") as content:
        content.write(header)

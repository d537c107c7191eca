"""Rows that are written block by block: whole whatever was killed in between, each block once whoever shares the work."""

import errno
import os
import signal
from multiprocessing import get_context

import pytest

from lightning_diff.foundation import row_files, shared_work
from lightning_diff.foundation.errors import UserError
from lightning_diff.foundation.row_files import Table, damage
from lightning_diff.foundation.shared_work import Work

TABLES = [Table("a", b"head", (3, 2), 10, 4), Table("b", b"", (5,), 3, 4)]  # 4 blocks
FORK = get_context("fork")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "made"


def columns(block, work):
    """Bytes that tell table, column and row."""
    return [
        b"".join(bytes([16 * block.table + column, *[row] * (width - 1)]) for row in rows)
        for column, width in enumerate(work.tables[block.table].widths)
        for rows in [range(block.first, block.first + block.rows)]
    ]


def make(target, tables=TABLES, key="key", *, most=100, each=lambda block: None):
    """Write so many blocks at most, and publish all; the numbers of those that were written."""
    written = []
    with Work(target, tables, key, target.exists) as work:
        if work.is_needed:
            for block in work.missing():
                if len(written) == most:
                    return written
                each(block)
                work.put(block, columns(block, work), block.number)
                written.append(block.number)
            work.publish(lambda folder: (folder / "notes").write_text(f"{work.notes(0)} {work.checks()}"))
    return written


def content(target):
    return {path.name: path.read_bytes() for path in sorted(target.iterdir())}


def test_rows_lie_column_after_column_behind_the_header(target):
    assert make(target) == [0, 1, 2, 3]
    a = target / "a"
    assert a.read_bytes()[:10] == b"head" + bytes([0, 0, 0, 0, 1, 1])
    assert a.read_bytes()[4 + 30 :][:4] == bytes([1, 0, 1, 1])
    assert (target / "b").read_bytes() == bytes([16, 0, 0, 0, 0, 16, 1, 1, 1, 1, 16, 2, 2, 2, 2])
    assert (target / "notes").read_text().startswith("[0, 1, 2] [")
    assert not make(target)  # it is there


@pytest.mark.parametrize("most", range(5))
def test_a_later_start_writes_what_is_missing_and_gives_the_same(target, tmp_path, most):
    assert make(target, most=most) == list(range(most))
    assert not target.exists() or most == 4
    assert make(target) == list(range(most, 4))
    make(tmp_path / "other")
    assert content(target) == content(tmp_path / "other")
    assert not (tmp_path / "made.partial").exists()


def test_what_a_start_left_damaged_is_written_again(target, tmp_path):
    make(target, most=3)
    with (tmp_path / "made.partial" / "made" / "a").open("r+b") as file:
        file.seek(4 + 3 * 4)  # of the second block
        file.write(b"!")
    (lines,) = (tmp_path / "made.partial" / "done").iterdir()
    with lines.open("a") as file:
        file.write("[3, 12")  # whose writer was killed
    assert make(target) == [1, 3]


def test_blocks_of_an_interrupted_start_stay_and_other_work_begins_anew(target):
    longer = [Table("a", b"head", (3, 2), 10, 5), Table("b", b"", (5,), 3, 1)]
    assert make(target, most=1) == [0]
    assert make(target, longer, most=1) == [1]
    assert make(target, longer, "other key", most=1) == [0]
    assert make(target, TABLES[:1], "other key") == [0, 1, 2]


def test_what_a_newer_version_has_begun_is_refused_and_kept(target, tmp_path):
    make(target, most=2)
    record = tmp_path / "made.partial" / "work.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 2'))
    before = content(record.parent / "made")
    with pytest.raises(UserError, match=r"made\.partial: .*newer version .*format 2; .* up to 1.*update"):
        make(target)
    assert content(record.parent / "made") == before
    record.write_text(record.read_text().replace('"format": 2', '"format": 1'))
    assert make(target) == [2, 3]


def test_two_processes_share_the_blocks_and_each_is_written_once(target):
    meeting, written = FORK.Barrier(2), FORK.SimpleQueue()

    def part():
        met = []

        def each(block):
            if not met:  # both have one at the same time
                met.append(meeting.wait(60))

        written.put(make(target, each=each))

    processes = [FORK.Process(target=part) for _ in range(2)]
    for process in processes:
        process.start()
    parts = [written.get() for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(parts[0] + parts[1]) == [0, 1, 2, 3]
    assert all(parts)
    make(other := target.with_name("other"))
    assert content(target) == content(other)


def test_a_block_in_the_hands_of_a_process_that_dies_is_taken_over(target):
    has_one, may_die = FORK.Event(), FORK.Event()

    def dies():
        def each(block):
            has_one.set()
            may_die.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)

        make(target, each=each)

    process = FORK.Process(target=dies)
    process.start()
    assert has_one.wait(60)

    def each(block):
        if block.number == 3:  # the last one that is free
            may_die.set()

    assert make(target, each=each) == [1, 2, 3, 0]
    process.join(60)


def test_a_full_disk_leaves_what_was_written(target, monkeypatch):
    write, calls = shared_work.write, []

    def full(file, start, part):
        calls.append(start)
        if len(calls) > 4:  # two columns and a line for each block of the first file
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, start, part)

    monkeypatch.setattr(shared_work, "write", full)
    with pytest.raises(OSError, match="No space left"):
        make(target)
    monkeypatch.undo()
    assert make(target) == [1, 2, 3]


def test_help_is_called_where_there_is_something_to_do(target):
    calls = []
    with shared_work.helped_by(lambda: calls.append(1)):
        make(target)
        assert calls == [1]
        make(target)
    assert calls == [1]


def test_damage_is_told_by_size_and_by_content(target, monkeypatch):
    checks = []
    with Work(target, TABLES, "", target.exists) as work:
        for block in work.missing():
            work.put(block, columns(block, work))
        work.publish(lambda folder: checks.extend(work.checks()))
    assert damage(target, TABLES, checks) == damage(target, TABLES, []) == ""
    assert "checksums" in damage(target, TABLES, checks[:-1])
    whole = (target / "b").read_bytes()
    (target / "b").write_bytes(whole[:-1] + b"!")
    assert damage(target, TABLES, checks).startswith("b holds other bytes")
    monkeypatch.setattr(row_files, "LOOKED_AT_BYTES", 1)
    assert damage(target, TABLES, checks)  # the last block is always looked at
    (target / "b").write_bytes(whole[:-1])
    assert damage(target, TABLES, checks).startswith("b is not 15 bytes")

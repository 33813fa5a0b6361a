"""What a row store tells the journal it may forget, and what it tells a deletion, over databases that were killed, busy or full."""
from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3

import pytest

from common.packing import pack
from common.timestamp import Stamp
from container.broker import Broker
from container.store import RowStore
from container.wire import Row, pack_row

KEY, PATH = b"\x01" * 21, "/a/c"
ROW = Row("x", "", Stamp(1, 0, 1, 1), True, 7, 1, 0, "e", "t", 1, 0)


class Journal:
    """Records in memory; synced when told."""

    def __init__(self):
        self.records, self.covered, self.is_synced = [], None, True
        self.waiting, self.asked = [], asyncio.Event()

    def append_row(self, space, meta):
        self.records.append((meta, len(self.records) + 1))
        return len(self.records)

    def synced(self, sequence):
        if self.is_synced or not sequence:
            return None
        self.asked.set()
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    def sync(self):
        self.is_synced = True
        for future in self.waiting:
            future.set_result(None)

    def rows_covered(self, space, sequence):
        self.covered = sequence

    def last_sequence(self):
        return len(self.records)


class Registers:
    """A container without a history; `promise` stands at every ballot."""

    promise = None

    def outstanding_promise(self, key):
        return False

    def promised(self, key):
        return self.promise

    def container_state(self, key):
        return None


def store_over(directory, journal, registers=None, open_max=200):
    return RowStore(journal, registers or Registers(), directory=str(directory), space=1, is_container=True,
                    peers_of=lambda _: ["p"], open_max=open_max)


def file_of(directory):
    return f"{directory}/{KEY.hex()}.db"


def killed_after(directory, row=ROW):
    """A database whose rows stand in the log of SQLite alone, as a killed process leaves it."""
    broker = Broker(file_of(directory), PATH, ["p"])
    broker.apply([(row, None)], sequence=1)
    spare = f"{directory}/spare"
    os.mkdir(spare)
    for ending in ("", "-wal"):
        shutil.copy(file_of(directory) + ending, spare)
    broker.close()                                           # which would move the log into the file
    for ending in ("", "-wal"):
        shutil.copy(f"{spare}/{KEY.hex()}.db{ending}", file_of(directory) + ending)


async def test_rows_in_the_log_of_a_killed_process_are_synced_before_the_journal_may_forget_them(tmp_path):
    killed_after(tmp_path)
    journal = Journal()
    journal.append_row(1, pack((KEY, PATH, "", [pack_row(ROW)])))
    store = store_over(tmp_path, journal)
    store.replay(journal.records)
    await store.checkpoint()
    assert journal.covered == 1
    alone = tmp_path / "alone.db"
    shutil.copy(file_of(tmp_path), alone)                    # the log is lost with the power
    assert Broker(str(alone), PATH, ["p"]).versions("x") == [ROW]
    await store.close()


def test_a_checkpoint_that_somebody_else_keeps_from_its_end_is_none(tmp_path):
    broker = Broker(file_of(tmp_path), PATH, ["p"])
    broker.apply([(ROW, None)], sequence=5)
    broker._db.execute("PRAGMA busy_timeout=10")
    with contextlib.closing(sqlite3.connect(file_of(tmp_path))) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM info").fetchall()
        with pytest.raises(sqlite3.OperationalError):
            broker.checkpoint()
        assert broker.is_dirty
    assert broker.checkpoint() == 5 and not broker.is_dirty
    broker.close()


async def test_a_database_that_could_not_be_synced_when_it_was_closed_covers_nothing(tmp_path, monkeypatch):
    journal = Journal()
    store = store_over(tmp_path, journal, open_max=1)
    await store.put_rows(KEY, PATH, [ROW])
    await store.rows_of(KEY, ["x"])                          # applied
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        await store.put_rows(b"\x02" * 21, "/a/d", [ROW])    # takes the only place
        await store.rows_of(b"\x02" * 21, ["x"])
    await store.checkpoint()
    assert journal.covered is None
    await store.close()


def fail(_):
    raise OSError(errno.EIO, "planted")


@pytest.mark.parametrize("ask", ["live_rows", "rows_of"])
async def test_a_deletion_hears_of_rows_that_are_on_their_way_to_the_disk(tmp_path, ask):
    journal, registers = Journal(), Registers()
    store = store_over(tmp_path, journal, registers)
    journal.is_synced = False
    row = store.put_rows(KEY, PATH, [ROW])
    journal.asked.clear()
    registers.promise = Stamp(9, 0, 1, 1)
    asked = asyncio.create_task(store.live_rows(KEY, instance=7, ballot=registers.promise, after="", limit=10)
                                if ask == "live_rows" else store.rows_of(KEY, ["x"]))
    waits = asyncio.create_task(journal.asked.wait())        # for the disk, instead of an answer from memory alone
    await asyncio.wait([asked, waits], return_when=asyncio.FIRST_COMPLETED)
    journal.sync()
    waits.cancel()
    assert await asked == [ROW]
    await row
    await store.close()

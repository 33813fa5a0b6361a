"""What a worker was about to tell of its databases when it died, its successor tells."""
from __future__ import annotations

from common.timestamp import Stamp
from container.store import RowStore
from container.wire import Row
from object.wire import SPACE_CONTAINER, make_key

KEY = make_key(SPACE_CONTAINER, 1, b"k" * 16)


class Journal:
    """Everything is durable at once."""

    def __init__(self):
        self.records = []

    def append_row(self, space, meta):
        self.records.append((meta, len(self.records) + 1))
        return len(self.records)

    def synced(self, sequence):
        return None

    def rows_covered(self, space, sequence):
        pass

    def last_sequence(self):
        return len(self.records)

    def outstanding_promise(self, key):
        return False

    def container_state(self, key):
        return None


def open_store(journal, root):
    return RowStore(journal, journal, directory=str(root), space=SPACE_CONTAINER, is_container=True, peers_of=lambda key: [])


async def test_databases_with_rows_since_their_checkpoint_are_told_of_though_the_rows_were_applied(tmp_path):
    journal = Journal()
    first = open_store(journal, tmp_path)
    await first.put_rows(KEY, "/a/c", [Row("o", "", Stamp(5, 0, 0, 1), True, 1, 9)])
    assert (await first.figures(KEY)).row_count == 1             # applied; nobody listens, and no checkpoint follows
    second, told = open_store(journal, tmp_path), []
    second.replay(journal.records)
    second.on_applied = told.append
    second.tell_replayed()
    second.tell_replayed()
    assert [(applied.path, applied.figures.row_count, applied.newest_us) for applied in told] == [("/a/c", 1, 5)]
    await second.close()
    first._pool.shutdown(wait=True)

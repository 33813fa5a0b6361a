"""Listings that two replicas agree on, step by step."""
from __future__ import annotations

import asyncio

import pytest

from common.errors import DeviceUnavailable, QuorumNotMet
from common.timestamp import Stamp
from container.wire import Figures, PageAnswer, PageRequest, Row
from proxy.cluster import RowPlace
from proxy.rows import STEP_NAMES, list_rows

ROW = Row("o", "", Stamp(1, 0, 0, 7), True, 1)


class Replica:
    """A row database: its rows, and which of them it knows each peer to hold."""

    def __init__(self, device_id, rows=()):
        self.device_id, self.peer_id, self.is_local = device_id, f"d{device_id}", True
        self.rows = {row.name: row for row in rows}
        self.confirmed = set()                             # (peer, name)
        self.before_unconfirmed = lambda: None
        self.error = None
        self.limit_max = 0

    async def put_rows(self, key, path, rows, *, held_by, timeout_s):
        self.rows |= {row.name: row for row in rows}
        self.confirmed |= {(held_by, row.name) for row in rows}

    async def page(self, key, page, *, instance, peer, timeout_s):
        if self.error:
            raise self.error
        self.limit_max = max(self.limit_max, page.limit)
        found = [row for name, row in sorted(self.rows.items(), reverse=page.reverse)
                 if not page.marker or (name < page.marker if page.reverse else name > page.marker)]
        return PageAnswer(found[:page.limit], self._unknown_to(peer), Figures(len(self.rows), 0, 0))

    async def unconfirmed(self, key, page, *, peer, limit, timeout_s):
        await asyncio.sleep(0)                             # a hop
        self.before_unconfirmed()
        if self.error:
            raise self.error
        return self._unknown_to(peer)

    def confirm(self, key, peer, rows):
        self.confirmed |= {(peer, name) for name, _ in rows}

    def _unknown_to(self, peer):
        return [row for name, row in self.rows.items() if (peer, name) not in self.confirmed]


async def names(*replicas, page=PageRequest(10)):                                                 # noqa: B008  (a value)
    place = RowPlace(b"k", "/a/c", tuple(replicas), 2)
    answer = await list_rows(place, page, instance=1, deadline_s=asyncio.get_running_loop().time() + 5)
    return [row.name for row in answer.entries]


async def test_a_row_that_reaches_the_first_replica_behind_the_second_is_not_missed():
    first, second = Replica(1), Replica(2, [ROW])

    def late():
        """The third copy of an answered write arrives, and the second replica hears of it."""
        first.rows[ROW.name] = ROW
        second.confirm(b"k", first.peer_id, [(ROW.name, ROW.stamp.pack())])

    second.before_unconfirmed = late
    assert await names(first, second) == ["o"]


@pytest.mark.parametrize("holder", [0, 1])
async def test_what_a_page_shows_is_held_by_two_replicas_before_the_answer(holder):
    replicas = [Replica(1), Replica(2), Replica(3)]
    replicas[holder].rows[ROW.name] = ROW
    assert await names(*replicas) == ["o"]
    assert ROW.name in replicas[0].rows and ROW.name in replicas[1].rows


@pytest.mark.parametrize("dead", [0, 1, 2])
async def test_any_two_of_three_replicas_make_a_page(dead):
    replicas = [Replica(i, [ROW]) for i in range(3)]
    replicas[dead].error = DeviceUnavailable(device="d")
    assert await names(*replicas) == ["o"]


async def test_one_replica_alone_makes_no_page():
    replicas = [Replica(i, [ROW]) for i in range(3)]
    replicas[0].error = replicas[2].error = DeviceUnavailable(device="d")
    with pytest.raises(QuorumNotMet):
        await names(*replicas)


@pytest.mark.parametrize("limit", [0, 1, STEP_NAMES - 1, STEP_NAMES, STEP_NAMES + 1, 2 * STEP_NAMES, 10 * STEP_NAMES])
@pytest.mark.parametrize("reverse", [False, True])
async def test_a_long_page_is_asked_for_in_steps_that_fit_into_a_frame(limit, reverse):
    rows = [ROW._replace(name=f"{number:05}") for number in range(2 * STEP_NAMES + 7)]
    replicas = [Replica(i, rows) for i in range(3)]
    expected = sorted((row.name for row in rows), reverse=reverse)[:limit]
    assert await names(*replicas, page=PageRequest(limit, reverse=reverse)) == expected
    assert max(replica.limit_max for replica in replicas) <= STEP_NAMES

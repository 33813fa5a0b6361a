"""A write that was superseded while it settled lists what superseded it, whole: no row is made of two writes."""
from __future__ import annotations

import asyncio
import hashlib

import pytest

from common.faultnet import Direction
from container.wire import OP_PUT_ROWS
from object.wire import OP_ACCEPT
from proxy.model import Page
from tests.fault.cluster.harness import delete, get, post, put, running, until


def hold(cluster, worker, *devices, op=OP_ACCEPT):
    """Messages of one gateway wait until they are let go: (the rule that keeps them, the function that lets them go)."""
    rules = cluster.rules[worker]
    rule = rules.hold(direction=Direction.TO, match=lambda o, fields: o == op and fields[0] in devices)
    return rule, lambda: rules.release(rule)


async def rows(store):
    _, entries = await store.list_container("a", "c", Page(limit=10))
    return [(entry.name, entry.etag, entry.size_bytes) for entry in entries]


@pytest.mark.parametrize("change", [put, delete])
async def test_a_write_that_lost_while_it_settled_lists_the_winner_whole(tmp_path, change):
    async with running(tmp_path, gateways=3, request_timeout_s=30.0) as cluster:
        loser, winner, poster = (cluster.store(worker) for worker in (3, 4, 5))
        await put(loser, "o", b"old")
        held, let_go = hold(cluster, 3, 0, 1)                    # the loser has its stamp, and nobody hears of it yet
        mend = cluster.harm(3, 2, ops=frozenset({OP_ACCEPT}))    # the third device never will
        losing = asyncio.create_task(change(loser, "o", b"lost") if change is put else change(loser, "o"))
        await until(lambda: len(held.held) == 2, "the loser has sent its write")
        late, let_poster_go = hold(cluster, 5, 0, 1, 2)          # promises above the loser's stamp, and then silence
        posting = asyncio.create_task(post(poster, "o", {"a": "b"}))
        await until(lambda: len(late.held) == 3, "the poster has its promises")
        some, let_winner_go = hold(cluster, 4, 0, 1)             # the winner reaches the third device alone
        _, let_row_go = hold(cluster, 4, 0, 1, 2, op=OP_PUT_ROWS)
        winning = asyncio.create_task(put(winner, "o", b"the winner"))
        await until(lambda: len(some.held) == 2, "the winner has sent its write")
        mend()
        let_go()                         # refused for the sake of the promise, so it settles, and finds the winner
        await losing
        let_winner_go()
        let_row_go()
        let_poster_go()
        await winning
        await asyncio.gather(posting, return_exceptions=True)    # refused by now, and does not know of what
        assert await get(winner, "o") == b"the winner"
        assert await rows(winner) == [("o", hashlib.md5(b"the winner").hexdigest(), 10)]

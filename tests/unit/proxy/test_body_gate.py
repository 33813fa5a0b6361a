"""How much of all uploads is on its way at once."""
from __future__ import annotations

import asyncio

import pytest

from proxy.bodies import UNDER_WAY_BYTES_MAX, Piece, _Gate, _under_way


async def test_bytes_are_given_in_order_of_arrival_and_no_small_one_overtakes():
    gate, order = _Gate(10), []

    async def take(name, size):
        await gate.take(size)
        order.append(name)

    tasks = [asyncio.create_task(take(name, size)) for name, size in (("a", 8), ("b", 8), ("c", 1), ("d", 5))]
    await asyncio.sleep(0)
    assert order == ["a"]
    gate.give(8)
    for _ in range(3):
        await asyncio.sleep(0)
    assert order == ["a", "b", "c"]
    gate.give(9)
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c", "d"]


@pytest.mark.parametrize("is_granted", [False, True])
async def test_whoever_is_cancelled_keeps_nothing(is_granted):
    gate = _Gate(4)
    await gate.take(4)
    waiting = asyncio.create_task(gate.take(3))
    await asyncio.sleep(0)
    if is_granted:
        gate.give(4)                     # its turn has come, but it has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not is_granted:
        gate.give(4)
    await asyncio.wait_for(gate.take(4), 5)


def test_a_piece_gives_back_what_it_took_once():
    before = _under_way._free_bytes
    piece = Piece([b"x" * 100_000], 100_000)
    _under_way._free_bytes -= 100_000
    piece.release()
    piece.release()
    assert _under_way._free_bytes == before == UNDER_WAY_BYTES_MAX and not piece.chunks

"""A flood of logins from one address leaves a turn and a place to everybody else."""
from __future__ import annotations

import asyncio
import threading

import aiohttp
import pytest

from common.errors import Overloaded
from identity.turns import Turns
from tests.unit.identity.conftest import cheap_passwords


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


class House:
    """Turns whose takers are numbered; `order`: who got one, `refused`: who was sent away."""

    def __init__(self, **bounds):
        self.turns, self.order, self.refused, self.tasks = Turns(**bounds), [], [], []

    async def ask(self, *peers):
        for peer in peers:
            self.tasks.append(asyncio.create_task(self._take(peer)))
            await settle()
        return self.tasks[-1]

    async def _take(self, peer):
        try:
            await self.turns.take(peer)
            self.order.append(peer)
        except Overloaded:
            self.refused.append(peer)

    async def finish(self):
        """Every turn is given back; each gave its place on."""
        given = 0
        while given < len(self.order):
            self.turns.give_back()
            given += 1
            await settle()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.turns._running == self.turns._waiting == 0 and not self.turns._queues


async def test_addresses_take_turns_however_many_wait_of_each():
    house = House(running_max=1, total_max=32)
    await house.ask(*"AAAAAA", "B", "C", "B")
    await house.finish()
    assert "".join(house.order) == "AABCABAAA" and not house.refused


async def test_a_full_house_makes_room_for_whoever_has_less():
    house = House(running_max=2, total_max=8)
    await house.ask(*"A" * 10)
    assert house.refused == ["A"] * 2, "an address that is alone has all places, and no more"
    await house.ask(*"BBBB")
    assert house.refused == ["A"] * 5 + ["B"], "room is made until both have as many"
    await house.finish()
    assert sorted(house.order) == ["A"] * 5 + ["B"] * 3


async def test_who_is_sent_away_is_the_one_that_came_last():
    house = House(running_max=1, total_max=3)
    await house.ask("run", "A")
    last = await house.ask("A")
    await house.ask("B")
    assert last.done() and house.refused == ["A"]
    await house.finish()
    assert house.order == ["run", "A", "B"]


@pytest.mark.parametrize("one, other, is_same", [("10.0.0.1", "10.0.0.2", False), ("2001:db8::1", "2001:db8::ffff:1", True),
                                                 ("2001:db8::1", "2001:db8:0:1::1", False), ("::ffff:10.0.0.1", "10.0.0.1", True),
                                                 ("fe80::1%eth0", "fe80::2%eth1", True), ("", "", True), ("unix", "", False)])
async def test_one_client_of_ipv6_is_its_network(one, other, is_same):
    house = House(running_max=1, total_max=32)
    await house.ask("run", one, other)
    assert len(house.turns._queues) == (1 if is_same else 2)
    await house.finish()


async def test_who_gives_up_leaves_no_place_behind():
    house = House(running_max=1, total_max=4)
    await house.ask("A", "A", "B")
    waiting = await house.ask("B")
    waiting.cancel()
    await settle()
    await house.ask("C")
    assert not house.refused
    nearly = house.tasks[1]
    house.turns.give_back()                      # the turn of the second A comes ...
    nearly.cancel()                              # ... in the moment in which it goes away
    await settle()
    assert house.order == ["A", "B"]
    house.turns.give_back()
    await settle()
    house.turns.give_back()
    await settle()
    assert house.order == ["A", "B", "C"] and house.turns._running == 0


async def test_a_client_that_goes_away_keeps_its_turn_until_the_thread_is_done():
    passwords, may_end = cheap_passwords(threads=1), threading.Event()
    passwords.is_right_here = lambda *_: may_end.wait(10)
    gone = asyncio.create_task(passwords.is_right("x", "y", peer="A"))
    await settle()
    gone.cancel()
    await asyncio.wait([gone])
    assert passwords.turns._running == 1
    may_end.set()
    assert await passwords.is_right("x", "y", peer="B")
    await settle()
    assert passwords.turns._running == 0
    passwords.close()


async def done(tasks, count):
    """Until so many are."""
    while sum(task.done() for task in tasks) < count:
        await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)


async def test_a_flood_of_logins_from_one_address_does_not_refuse_those_from_another(make_cloud):
    async with make_cloud() as cloud:
        passwords = cloud.state.passwords
        is_held, plain = threading.Event(), passwords.is_right_here
        passwords.is_right_here = lambda *arguments: is_held.wait(20) and plain(*arguments)
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": {
            "name": "nobody", "domain": {"id": "default"}, "password": "x"}}}}}
        url = cloud.client.make_url("/v3/auth/tokens")
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), limit=0)
        async with aiohttp.ClientSession(connector=connector) as flood, asyncio.timeout(20):
            flooding = [asyncio.create_task(flood.post(url, json=body)) for _ in range(60)]
            await done(flooding, 60 - passwords.turns.total_max)
            mine = asyncio.create_task(cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key"))
            await done(flooding, 61 - passwords.turns.total_max)
            is_held.set()
            assert await mine
            assert {(await task).status for task in flooding} == {401, 503}

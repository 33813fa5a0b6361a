"""Who computes next, when more wait than can compute: one client address after the other, each in its own order.

A flood from one address takes one turn in so many, and once all waiting places are taken it loses its own: whoever comes from an
address with fewer waiting takes the place of the newest of the address with the most. An address that is alone may use all places,
so clients behind one proxy are worse off than before only while others ask too.
"""
from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict, deque

from common.errors import Overloaded

_PREFIX_6 = 64                           # bits: what one client of IPv6 has as a rule


class Turns:
    """At most `running_max` at a time, at most `total_max` with those that wait."""

    def __init__(self, *, running_max: int, total_max: int) -> None:
        self.running_max, self.total_max = running_max, total_max
        self._running = self._waiting = 0
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()      # in the order of their next turn

    async def take(self, peer: str) -> None:
        """Wait for a turn; `give_back` has to follow. peer: an address, or "".

        Raises `Overloaded`; then, and when cancelled, there is none to give back.
        """
        if self._running + self._waiting >= self.total_max:
            self._make_room(_client_of(peer))
        if self._running < self.running_max:
            self._running += 1
            return
        client, turn = _client_of(peer), asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back()                             # it came at the moment in which nobody wanted it any more
            elif turn.cancelled():
                self._leave(client, turn)
            raise

    def give_back(self) -> None:
        """The next one computes."""
        while self._queues:
            client, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues[client] = queue                 # at the end: first the others
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    def _make_room(self, client: str) -> None:
        """Send away the newest of the address with the most, if that leaves it no fewer than `client` then has."""
        longest = max(self._queues, key=lambda one: len(self._queues[one]), default=client)
        if len(self._queues.get(longest, ())) <= len(self._queues.get(client, ())) + 1:
            raise _overloaded()
        turn = self._queues[longest][-1]
        self._leave(longest, turn)
        if not turn.done():
            turn.set_exception(_overloaded())

    def _leave(self, client: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(client, deque())
        if turn in queue:
            queue.remove(turn)
            self._waiting -= 1
            if not queue:
                del self._queues[client]


def _overloaded() -> Overloaded:
    return Overloaded(what="logins", reason="Too many passwords wait to be checked; try again.", retry_after_s=1)


def _client_of(peer: str) -> str:
    """An address; of IPv6 the network, for one client has all of it."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), _PREFIX_6), strict=False))

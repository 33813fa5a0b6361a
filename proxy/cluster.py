"""Where a name lives and how to reach it: rings, device clients, and the rounds of the register protocol over them.

Budget of a round: one direct call per own device, one frame per other; one future in all, none when every answer is
there at once. A read asks a quorum and one more replica when the slowest is slower than usual.
"""
from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from common.clock import Clock
from common.errors import (
    Corruption,
    DeadlineExceeded,
    DeviceFull,
    DeviceUnavailable,
    OutcomeUnknown,
    Overloaded,
    QuorumNotMet,
    StorageError,
    TransportLost,
)
from container.client import RowClient
from object.client import ObjectClient
from object.wire import SPACE_ACCOUNT, SPACE_CONTAINER, SPACE_OBJECT, Reply, make_key, split_key
from proxy.coordinator import Accept, Look, Message, Replies
from proxy.witness import Witness, explain
from ring.placement import Ring, hash_path

E = TypeVar("E", bound=StorageError)
AWAY = (DeviceUnavailable, TransportLost, DeadlineExceeded, DeviceFull, Overloaded)
PLACES_MAX = 5_000                       # accounts and containers whose place is remembered
LEFT_S_MIN = 0.001                       # every message has a deadline to come
HEDGE_S_MIN, HEDGE_S_MAX = 0.005, 1.0


class Place(NamedTuple):
    """One register: its key and its replicas, the ones in this process first."""

    key: bytes
    path: str
    clients: tuple[ObjectClient, ...]
    quorum: int


class RowPlace(NamedTuple):
    """One row database and its replicas."""

    key: bytes
    path: str
    clients: tuple[RowClient, ...]
    quorum: int


class Usual:
    """How long an answer usually takes; a hedge goes out after mean and four deviations."""

    def __init__(self) -> None:
        self._mean_s, self._deviation_s = 0.02, 0.02

    def note(self, took_s: float) -> None:
        self._deviation_s += (abs(took_s - self._mean_s) - self._deviation_s) / 16
        self._mean_s += (took_s - self._mean_s) / 16

    @property
    def hedge_s(self) -> float:
        return min(max(self._mean_s + 4 * self._deviation_s, HEDGE_S_MIN), HEDGE_S_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """What the wiring gives: a client per ring device id."""

    objects: Mapping[int, ObjectClient]
    containers: Mapping[int, RowClient]
    accounts: Mapping[int, RowClient]


class Cluster:
    """Rings and clients of one worker."""

    def __init__(self, *, account_ring: Ring, container_ring: Ring, object_rings: Mapping[int, Ring], peers: Peers,
                 hash_prefix: bytes, hash_suffix: bytes, worker: int, clock: Clock, rng: random.Random) -> None:
        """worker: unique in the cluster. object_rings: by index of the policy."""
        self._account_ring, self._container_ring, self._object_rings = account_ring, container_ring, object_rings
        self._peers, self._prefix, self._suffix = peers, hash_prefix, hash_suffix
        self.worker, self.clock, self.rng = worker, clock, rng
        self.usual = Usual()
        self.loop = asyncio.get_running_loop()   # asking for it costs a system call
        self._places: dict[str, tuple[Place, RowPlace]] = {}
        self._orders: dict[tuple[int, ...], tuple[ObjectClient, ...]] = {}

    def account(self, account: str) -> tuple[Place, RowPlace]:
        """Register and database of an account."""
        return self._named(self._account_ring, SPACE_ACCOUNT, self._peers.accounts, account, None)

    def container(self, account: str, container: str) -> tuple[Place, RowPlace]:
        """Register and database of a container."""
        return self._named(self._container_ring, SPACE_CONTAINER, self._peers.containers, account, container)

    def object(self, policy: int, account: str, container: str, name: str) -> Place:
        """Raises `StorageError` for a policy that this node does not know."""
        ring = self._object_rings.get(policy)
        if ring is None:
            raise StorageError(reason=f"no ring for policy {policy}")
        name_hash = hash_path(account, container, name, prefix=self._prefix, suffix=self._suffix)
        partition = ring.partition(name_hash)
        clients = self._ordered(tuple(device.id for device in ring.primaries(partition)))
        return Place(make_key(SPACE_OBJECT + policy, partition, name_hash), f"/{account}/{container}/{name}", clients,
                     len(clients) // 2 + 1)

    def client(self, device_id: int) -> ObjectClient:
        """Of any device of the cluster."""
        return self._peers.objects[device_id]

    def handoffs(self, place: Place) -> Iterator[ObjectClient]:
        """Devices that take copies for primaries of an object that are away, in the ring's order."""
        space, partition, _ = split_key(place.key)
        ring = self._object_rings.get(space - SPACE_OBJECT)
        if ring is not None:
            for device in ring.handoffs(partition):
                yield self._peers.objects[device.id]

    def _named(self, ring: Ring, space: int, rows: Mapping[int, RowClient], account: str,
               container: str | None) -> tuple[Place, RowPlace]:
        path = f"/{account}" if container is None else f"/{account}/{container}"
        places = self._places.get(path)
        if places is None:
            name_hash = hash_path(account, container, prefix=self._prefix, suffix=self._suffix)
            partition = ring.partition(name_hash)
            clients = self._ordered(tuple(device.id for device in ring.primaries(partition)))
            key, quorum = make_key(space, partition, name_hash), len(clients) // 2 + 1
            places = Place(key, path, clients, quorum), RowPlace(key, path, tuple(rows[c.device_id] for c in clients), quorum)
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            self._places[path] = places
        return places

    def _ordered(self, ids: tuple[int, ...]) -> tuple[ObjectClient, ...]:
        clients = self._orders.get(ids)
        if clients is None:
            clients = tuple(sorted((self._peers.objects[i] for i in ids), key=lambda client: not client.is_local))
            self._orders[ids] = clients
        return clients


class _Asked:
    """Takes the answer of one replica for its round; no future, no turn of the loop in between."""

    __slots__ = ("_device_id", "_round")

    def __init__(self, round_: Round, device_id: int) -> None:
        self._round, self._device_id = round_, device_id

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply, /) -> None:
        self._round.take(self._device_id, reply)

    def set_exception(self, exception: BaseException, /) -> None:
        self._round.fail(self._device_id, exception if isinstance(exception, StorageError)
                         else StorageError(reason=repr(exception)))


class Round:
    """One message to the replicas of a place, under way."""

    __slots__ = ("_cluster", "_future", "_hedge", "_is_enough", "_is_over", "_pending", "_ports", "_quorum", "_sent",
                 "_started_s", "errors", "message", "replies")

    def __init__(self, ports: RegisterPorts, message: Message, is_enough: Callable[[Replies], bool]) -> None:
        self._ports, self.message, self._is_enough = ports, message, is_enough
        self._cluster, self._quorum = ports.cluster, ports.place.quorum
        self.replies: list[Reply] = []
        self.errors: dict[int, StorageError] = {}
        self._pending: set[int] = set()
        self._is_over = False
        self._future: asyncio.Future[None] | None = None
        self._hedge: asyncio.TimerHandle | None = None
        self._started_s = 0.0
        clients = ports.place.clients
        is_read = isinstance(message, Look) and message.ballot is None
        self._sent = self._quorum if is_read else len(clients)
        for client in clients[:self._sent]:
            self._send(client, message)
            if is_read and isinstance(message, Look) and message.read_body:
                message = Look(None, message.seen_us)            # one body is enough
        self._ask_enough()

    def _send(self, client: ObjectClient, message: Message) -> None:
        ports, device_id = self._ports, client.device_id
        self._pending.add(device_id)
        left_s = ports.deadline_s - self._cluster.loop.time()
        left_s = max(left_s, LEFT_S_MIN)
        try:
            if isinstance(message, Look):
                answer = client.look(ports.place.key, message.ballot, seen_us=message.seen_us, is_durable=ports.is_durable,
                                     read_body=message.read_body, timeout_s=left_s, into=_Asked(self, device_id))
            else:
                answer = client.accept(ports.place.key, message.ballot, message.version, message.mode, seen_us=message.seen_us,
                                       is_durable=ports.is_durable, body=message.body, timeout_s=left_s,
                                       into=_Asked(self, device_id))
        except StorageError as error:
            self.fail(device_id, error)
            return
        if type(answer) is Reply:
            self.take(device_id, answer)

    def take(self, device_id: int, reply: Reply) -> None:
        """A replica has answered."""
        if self._is_over:
            return
        self._pending.discard(device_id)
        self.replies.append(reply)
        self._ports.holders[device_id] = reply
        if self._future is not None:
            self._judge()

    def fail(self, device_id: int, error: StorageError) -> None:
        """A replica has answered with an error, or cannot be asked."""
        if self._is_over:
            if isinstance(self.message, Accept):
                self._ports.missed(error)                        # nobody waited for it; its copy is missing all the same
            return
        self._pending.discard(device_id)
        self._note(device_id, error)
        if self._future is not None:
            if self._is_short:
                self._ask_another()
            self._judge()

    def _note(self, device_id: int, error: StorageError) -> None:
        self.errors[device_id] = error
        began_s = self._started_s                                # 0.0: refused before anybody had to wait
        ms = (self._cluster.loop.time() - began_s) * 1e3 if began_s else 0.0
        self._ports.note(device_id, _question(self.message), error, ms)

    def _ask_enough(self) -> None:
        while self._is_short and self._ask_another():
            pass

    def _ask_another(self) -> bool:
        clients = self._ports.place.clients
        if self._sent >= len(clients):
            return False
        self._sent += 1
        self._send(clients[self._sent - 1], self.message)
        return True

    @property
    def _is_short(self) -> bool:
        """True when those that were asked and did not fail can make no quorum."""
        return len(self._pending) + len(self.replies) < self._quorum

    @property
    def _is_done(self) -> bool:
        return (len(self.replies) >= self._quorum and self._is_enough(self.replies)) or not self._pending

    async def wait(self) -> list[Reply]:
        """The counted replies once they are enough, or all there will be; one that hangs holds up no refusal by the others."""
        self._ask_enough()               # one may have failed since the round began
        if self._is_done:
            return self._end()
        loop = self._cluster.loop
        self._started_s = loop.time()
        self._future = loop.create_future()
        if self._sent < len(self._ports.place.clients):
            self._hedge = loop.call_later(self._cluster.usual.hedge_s, self._on_slow)
        else:
            self._end_soon()
        deadline = loop.call_at(self._ports.deadline_s, self._give_up_waiting)       # a fifth of what asyncio.timeout costs
        try:
            await self._future
        finally:
            self._future = None
            deadline.cancel()
            if self._hedge is not None:
                self._hedge.cancel()
        now_s = loop.time()
        if now_s >= self._ports.deadline_s:
            for device_id in self._pending:
                self._note(device_id, DeadlineExceeded(what="answer of a replica"))
        self._cluster.usual.note(now_s - self._started_s)
        return self._end()

    def abandon(self) -> None:
        """Nobody waits for this round any more."""
        self._is_over = True

    def _end(self) -> list[Reply]:
        self._is_over = True
        if self.errors and isinstance(self.message, Accept):
            for error in self.errors.values():
                self._ports.missed(error)
        return self.replies

    def _judge(self) -> None:
        assert self._future is not None
        if self._future.done():
            return
        if self._is_done:
            self._future.set_result(None)
        else:
            self._end_soon()

    def _end_soon(self) -> None:
        """A quorum has answered, but not what was hoped for: the last one has as long as an answer usually takes."""
        if self._hedge is None and len(self.replies) >= self._quorum:
            self._hedge = self._cluster.loop.call_later(self._cluster.usual.hedge_s, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _on_slow(self) -> None:
        if self._ask_another() and self._future is not None:
            self._judge()


class RegisterPorts:
    """`proxy.coordinator.Ports` over a place, for one client operation."""

    __slots__ = ("cluster", "deadline_s", "errors", "holders", "is_durable", "on_missed", "place", "quorum", "witness", "worker",
                 "write_id")

    def __init__(self, cluster: Cluster, place: Place, *, deadline_s: float, is_durable: bool = False) -> None:
        """deadline_s: of the loop's clock. is_durable: promises by records of their own (containers, accounts)."""
        self.cluster, self.place, self.deadline_s, self.is_durable = cluster, place, deadline_s, is_durable
        self.quorum, self.worker = place.quorum, cluster.worker
        self.write_id = cluster.rng.getrandbits(63) + 1
        self.holders: dict[int, Reply] = {}      # the last reply of each device
        self.errors: dict[int, StorageError] = {}
        self.witness: Witness | None = None      # once a device answered with an error
        self.on_missed: Callable[[], None] | None = None     # a replica could not take a write that others took

    def missed(self, error: StorageError) -> None:
        """A replica that is away, not one that refuses."""
        if self.on_missed is not None and isinstance(error, AWAY):
            self.on_missed()

    def begin(self, message: Message, is_enough: Callable[[Replies], bool]) -> Round:
        """Send now; wait later."""
        return Round(self, message, is_enough)

    async def round(self, message: Message, is_enough: Callable[[Replies], bool]) -> list[Reply]:
        return await self.end(self.begin(message, is_enough))

    async def end(self, under_way: Round) -> list[Reply]:
        """Wait for a round. Raises `QuorumNotMet` for a look without promise that reached too few."""
        replies = await under_way.wait()
        if not under_way.errors:
            return replies
        self.errors.update(under_way.errors)
        message = under_way.message
        if len(replies) < self.quorum and isinstance(message, Look) and message.ballot is None:
            raise self.explain(QuorumNotMet(needed=self.quorum, answers={str(d): e.code for d, e in under_way.errors.items()}))
        for error in under_way.errors.values():
            if isinstance(error, DeviceFull) and len(replies) < self.quorum:
                raise self.explain(DeviceFull(**error.fields))   # says more than "no quorum"
        return replies

    def note(self, device_id: int, asked: str, error: StorageError, ms: float) -> None:
        """A device answered with an error, or not in time."""
        if self.witness is None:
            self.witness = Witness()
        self.witness.note(device_id, asked, error, ms)

    def explain(self, error: E) -> E:
        """The error of this operation, with what the devices said."""
        rule = "device.full" if isinstance(error, DeviceFull) else "quorum.look"
        if isinstance(error, OutcomeUnknown):
            rule = "quorum.contention" if self.witness is None else "quorum.accept"
        return explain(error, rule, self.witness, path=self.place.path, needed=self.quorum, replicas=len(self.place.clients),
                       answered=sorted(self.holders))

    def now_us(self) -> int:
        return self.cluster.clock.now_us()

    async def pause(self, attempt: int) -> bool:
        """Exponential with jitter, 2 ms to 200 ms."""
        delay_s = min(0.002 * 2 ** attempt, 0.2) * (0.5 + self.cluster.rng.random())
        if self.cluster.loop.time() + delay_s >= self.deadline_s:
            return False
        await asyncio.sleep(delay_s)
        return True

    def damaged(self) -> list[ObjectClient]:
        """Replicas whose last answer was damage."""
        return [c for c in self.place.clients if isinstance(self.errors.get(c.device_id), Corruption)]


def _question(message: Message) -> str:
    if isinstance(message, Accept):
        return "accept"
    return "look" if message.ballot is None else "prepare"

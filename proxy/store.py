"""The store under the doors: objects over the register protocol, with their listing rows. Implements `proxy.model.Store`.

A PUT from here to disk: `look` -> `put_object` -> `Coordinator.write` -> `RegisterPorts.round` -> `ObjectClient.accept` ->
`Owner.accept` -> `Replica.accept` -> `Device.put` -> `Journal.append`; then `deliver` for its row. Round trips of a small
PUT: look (container and object at once), accept, row: 3, with two group commits. GET: 1.
"""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from common.errors import (
    Corruption,
    DeadInstance,
    NotFound,
    QuorumNotMet,
    StorageError,
)
from common.log import get_logger
from common.timestamp import Stamp
from container.wire import Row, unpack_container_state
from object.client import ObjectClient
from object.wire import BodyState, Descriptor, Kind, Mode, Reply, Version, make_version, unpack_descriptor, whole
from proxy.bodies import Received, receive_body
from proxy.cluster import Cluster, Place, RegisterPorts, Round
from proxy.containers import Containers, bounded
from proxy.coordinator import Coordinator, Look, Outcome, Verdict, is_live, tombstone
from proxy.handoff import Handoffs
from proxy.model import BodySource, Condition, ContainerInfo, ObjectInfo, Target
from proxy.repair import Repairer
from proxy.rows import Deliveries, deliver
from proxy.witness import Witness, explain

log = get_logger("proxy.store")
_BAD = (BodyState.DAMAGED, BodyState.LEARNED, BodyState.LOST)
OWE_S = 5.0                              # how long a gateway tries to have a write owed after its deadline


@dataclass(slots=True)
class _Begun:
    """A write that has looked: `Target.state`."""

    place: Place
    ports: RegisterPorts
    coordinator: Coordinator
    replies: list[Reply]
    deadline_s: float


@dataclass(slots=True)
class Source:
    """Where the body of an `ObjectInfo` can be read."""

    place: Place
    version: Version
    ballot: Stamp
    ports: RegisterPorts
    deadline_s: float


class ObjectStore(Containers):
    """All of `proxy.model.Store`. One per worker."""

    def __init__(self, cluster: Cluster, *, request_timeout_s: float, default_policy: int, inline_bytes_max: int) -> None:
        super().__init__(cluster, request_timeout_s=request_timeout_s, default_policy=default_policy)
        self._inline_bytes_max = inline_bytes_max
        self._deliveries = Deliveries()
        self.repairer = Repairer(cluster)
        self.handoffs = Handoffs(cluster, request_timeout_s=request_timeout_s)

    # --- look ----------------------------------------------------------------------------------------------------

    async def look(self, account: str, container: str, name: str) -> Target:
        await self.need_account(account)
        deadline_s = self.deadline_s()
        container_ports, container_round = self.begin_look(account, container, deadline_s)
        guessed = self.guessed_policy(account, container)
        begun = self._begin_object_look(guessed, account, container, name, deadline_s)
        assert isinstance(container_round, Round)
        place, ports, object_round = begun
        try:
            replies = await container_ports.end(container_round)
            info = self.container_of(account, container, await self.settled(container_ports, replies))
        except BaseException:
            object_round.abandon()
            raise
        if info.policy != guessed:
            object_round.abandon()
            place, ports, object_round = self._begin_object_look(info.policy, account, container, name, deadline_s)
        replies = await ports.end(object_round)
        coordinator = Coordinator(ports)
        coordinator.saw(replies)
        newest = max(replies, key=lambda reply: reply.ballot)
        current = self._info(place, newest.version, newest.ballot, ports, deadline_s)
        return Target(container=info, current=current, state=_Begun(place, ports, coordinator, replies, deadline_s))

    def _begin_object_look(self, policy: int, account: str, container: str, name: str,
                           deadline_s: float) -> tuple[Place, RegisterPorts, Round]:
        place = self.cluster.object(policy, account, container, name)
        ports = RegisterPorts(self.cluster, place, deadline_s=deadline_s)
        ports.on_missed = lambda: self.handoffs.give(place)
        return place, ports, ports.begin(Look(None), lambda replies: len(replies) >= ports.quorum)

    # --- read ----------------------------------------------------------------------------------------------------

    async def get_object(self, account: str, container: str, name: str, *, want_body: bool) -> tuple[ContainerInfo, ObjectInfo]:
        await self.need_account(account)
        try:
            return await self._find_object(account, container, name, want_body=want_body, fresh=False)
        except NotFound:                 # perhaps only in what was remembered of the container, its policy above all
            return await self._find_object(account, container, name, want_body=want_body, fresh=True)

    async def _find_object(self, account: str, container: str, name: str, *, want_body: bool,
                           fresh: bool) -> tuple[ContainerInfo, ObjectInfo]:
        deadline_s = self.deadline_s()
        container_place, _ = self.cluster.container(account, container)
        info = self.container_of(account, container, await self.state(container_place, deadline_s, fresh=fresh))
        place = self.cluster.object(info.policy, account, container, name)
        ports = RegisterPorts(self.cluster, place, deadline_s=deadline_s)
        outcome = await Coordinator(ports).read(read_body=want_body)
        body = _body_in(outcome) if want_body else None
        found = self._info(place, outcome.version, outcome.ballot, ports, deadline_s, body)
        if found is None:
            raise NotFound(what="object")
        self._repair_if_needed(ports, outcome)
        return info, found

    def _info(self, place: Place, version: Version, ballot: Stamp, ports: RegisterPorts, deadline_s: float,
              body: bytes | None = None) -> ObjectInfo | None:
        """None when there is no object, or it has expired."""
        if not is_live(version):
            return None
        descriptor = unpack_descriptor(version.descriptor)
        if descriptor.delete_at_s and descriptor.delete_at_s * 1_000_000 <= self.cluster.clock.now_us():
            return None
        source = Source(place, version, ballot, ports, deadline_s)
        return ObjectInfo(path=version.path, size_bytes=version.size_bytes, descriptor=descriptor, body=body, source=source)

    async def read_body(self, info: ObjectInfo, offset: int, count: int) -> AsyncIterator[bytes]:
        if info.body is not None or info.size_bytes == 0:
            if count:
                yield (info.body or b"")[offset:offset + count]
            return
        source = info.source
        assert isinstance(source, Source)
        failures = Witness()
        loop = asyncio.get_running_loop()
        for client in _holders(source.ports, source.version):
            began_s = loop.time()
            try:
                async for piece in self._read_from(client, source, offset, count):
                    yield piece
                    offset += len(piece)
                    count -= len(piece)
            except StorageError as error:
                failures.note(client.device_id, "body", error, (loop.time() - began_s) * 1e3)
                if isinstance(error, Corruption):
                    self.repairer.repair(source.place, source.version, source.ballot)
            if count <= 0:
                return
        raise explain(QuorumNotMet(what="body", answers=failures.codes()), "quorum.body", failures, path=info.path, needed=1)

    async def _read_from(self, client: ObjectClient, source: Source, offset: int, count: int) -> AsyncIterator[bytes]:
        left_s = max(source.deadline_s - asyncio.get_running_loop().time(), 1.0)
        if source.version.size_bytes > self._inline_bytes_max:
            async for piece in client.read_body(source.place.key, source.version.body_id, offset, count, timeout_s=left_s):
                yield piece
            return
        reply = await whole(client.look(source.place.key, None, seen_us=0, is_durable=False, read_body=True, timeout_s=left_s))
        if reply.body is not None and reply.version.body_id == source.version.body_id:
            yield reply.body[offset:offset + count]

    def _repair_if_needed(self, ports: RegisterPorts, outcome: Outcome) -> None:
        """The read that met damage, or a replica without its body, has it mended."""
        is_bad = [r for r in outcome.replies if r.state in _BAD and r.ballot == outcome.ballot]
        if is_bad or (ports.errors and ports.damaged()):
            self.repairer.repair(ports.place, outcome.version, outcome.ballot)

    # --- write ---------------------------------------------------------------------------------------------------

    async def put_object(self, target: Target, descriptor: Descriptor, body: BodySource, *, condition: Condition | None,
                         expected_etag: str | None, size_max: int) -> ObjectInfo:
        begun = _begun(target)
        if condition is not None:        # decided again with the write; a refusal here spares the body and leaves no file
            settled = (await begun.coordinator.read(replies=begun.replies)).version
            condition(self._info(begun.place, settled, settled.stamp, begun.ports, begun.deadline_s))
        bounded(descriptor.pack())       # before the body, and not in its place
        received = await receive_body(body, begun.place, begun.ports, inline_bytes_max=self._inline_bytes_max,
                                      size_max=size_max, expected_etag=expected_etag, deadline_s=self.deadline_s)
        if received.is_staged:           # the upload took its time: the clock of the write starts now
            begun.deadline_s = begun.ports.deadline_s = self.deadline_s()
        filled = self._fill(target, descriptor, received)
        outcome = await self._write(begun, filled, received, condition)
        is_listed = await self._list(target.container, begun, outcome.version, filled)
        return ObjectInfo(path=begun.place.path, size_bytes=received.size_bytes, descriptor=filled, is_listed=is_listed)

    def _fill(self, target: Target, descriptor: Descriptor, received: Received) -> Descriptor:
        now_us = self.cluster.clock.now_us()
        if target.current is not None:
            now_us = max(now_us, target.current.descriptor.created_us + 1)
        # spelled out: `replace` costs 5 us
        return Descriptor(created_us=now_us, etag=received.etag, s3_etag=descriptor.s3_etag, content_type=descriptor.content_type,
                          instance=target.container.instance, delete_at_s=descriptor.delete_at_s, meta=descriptor.meta,
                          headers=descriptor.headers, extra=descriptor.extra)

    async def _write(self, begun: _Begun, descriptor: Descriptor, received: Received, condition: Condition | None) -> Outcome:
        packed = bounded(descriptor.pack())

        def make(stamp: Stamp) -> Version:
            return make_version(stamp=stamp, root=stamp, kind=Kind.LIVE, path=begun.place.path, body_id=received.body_id,
                                size_bytes=received.size_bytes, descriptor=packed)

        if received.is_staged:
            begun.coordinator.saw(received.replies)
        if condition is None:
            return await begun.coordinator.write(make, body=received.small)
        refusal: StorageError | None = None

        def decide(version: Version, ballot: Stamp) -> Version | None:
            nonlocal refusal
            try:
                condition(self._info(begun.place, version, ballot, begun.ports, begun.deadline_s))
            except StorageError as error:
                refusal = error
                return None
            return make(ballot)

        outcome = await begun.coordinator.change(decide, body=received.small, mode=Mode.WRITE)
        if outcome.verdict is Verdict.REFUSED and refusal is not None:
            raise refusal
        return outcome

    async def post_object(self, target: Target, change: Callable[[Descriptor], Descriptor]) -> bool:
        begun = _begun(target)
        refusal: StorageError | None = None

        def decide(version: Version, ballot: Stamp) -> Version | None:
            nonlocal refusal
            refusal = None
            found = self._info(begun.place, version, ballot, begun.ports, begun.deadline_s)
            if found is None:
                refusal = NotFound(what="object")
                return None
            try:
                packed = bounded(change(found.descriptor).pack())
            except StorageError as error:
                refusal = error
                return None
            return make_version(stamp=version.stamp, root=version.root, kind=Kind.LIVE, path=version.path,
                                body_id=version.body_id, size_bytes=version.size_bytes, descriptor=packed)

        outcome = await begun.coordinator.change(decide)
        if refusal is not None:
            raise refusal
        return await self._list(target.container, begun, outcome.version, unpack_descriptor(outcome.version.descriptor))

    async def delete_object(self, target: Target, condition: Condition | None) -> ObjectInfo:
        """204 says that the object is gone, not who removed it."""
        begun = _begun(target)
        before = (await begun.coordinator.read(replies=begun.replies)).version
        current = self._info(begun.place, before, before.stamp, begun.ports, begun.deadline_s)
        if current is None:
            raise NotFound(what="object")
        gone = Descriptor(created_us=self.cluster.clock.now_us(), instance=target.container.instance)
        packed = gone.pack()
        if condition is None:
            outcome = await begun.coordinator.write(lambda stamp: tombstone(stamp, path=begun.place.path, descriptor=packed))
        else:
            outcome = await self._delete_if(begun, packed, condition)
        is_listed = await self._list(target.container, begun, outcome.version, gone)
        return replace(current, is_listed=is_listed)

    async def _delete_if(self, begun: _Begun, packed: bytes, condition: Condition) -> Outcome:
        refusal: StorageError | None = None

        def decide(version: Version, ballot: Stamp) -> Version | None:
            nonlocal refusal
            refusal = None
            found = self._info(begun.place, version, ballot, begun.ports, begun.deadline_s)
            try:
                if found is None:
                    raise NotFound(what="object")
                condition(found)
            except StorageError as error:
                refusal = error
                return None
            return tombstone(ballot, path=begun.place.path, descriptor=packed)

        outcome = await begun.coordinator.change(decide)
        if refusal is not None:
            raise refusal
        return outcome

    # --- listing -------------------------------------------------------------------------------------------------

    async def _list(self, container: ContainerInfo, begun: _Begun, version: Version, descriptor: Descriptor) -> bool:
        """Deliver the row of what was just written; False when the journal has to do it later (X-Listing: pending)."""
        place, rows = self.cluster.container(container.account, container.name)
        instance = container.instance
        if version.stamp.write_id != begun.ports.write_id:       # superseded while it settled: the row is that of the other write
            descriptor = unpack_descriptor(version.descriptor)
            instance = descriptor.instance
        row = row_of(version, descriptor, instance)
        try:
            await self._deliveries.deliver(rows, row, deadline_s=begun.deadline_s,
                                           settle=lambda: self.settle_for(place, row.instance, begun.deadline_s))
        except DeadInstance:
            await self._undo(begun, version)
            raise NotFound(what="container").because("container.deleted_under_write") from None
        except QuorumNotMet as error:
            await self._owe(begun, version, error)
            return False
        for client in begun.place.clients:
            client.done(begun.place.key, version.stamp)
        return True

    async def _owe(self, begun: _Begun, version: Version, error: QuorumNotMet) -> None:
        """A quorum of the object's devices remembers that this was answered before it was listed."""
        log.warning("listing pending", path=version.path, reason=str(error))
        loop = asyncio.get_running_loop()
        durable = 0
        deadline_s = loop.time() + OWE_S
        waiting = []
        for client in begun.place.clients:
            try:
                future = client.owed(begun.place.key, version.stamp, timeout_s=OWE_S)
            except StorageError:
                continue
            if future is None:
                durable += 1
            else:
                waiting.append(future)
        for finished in asyncio.as_completed(waiting, timeout=max(deadline_s - loop.time(), 0.001)):
            try:
                await finished
                durable += 1
            except (StorageError, TimeoutError):
                continue
            if durable >= begun.place.quorum:
                break
        if durable < begun.place.quorum:
            raise QuorumNotMet(needed=begun.place.quorum, what="listing", answers={"owed": durable}).after(error)

    async def _undo(self, begun: _Begun, version: Version) -> None:
        """The container was deleted under this write: take it back if it is still what the register holds."""
        if version.kind != Kind.LIVE:
            return
        ports = RegisterPorts(self.cluster, begun.place, deadline_s=self.deadline_s())
        await undo(ports, version.stamp)

    async def settle_listing(self, path: str, policy: int, *, is_owed: bool) -> None:
        """Bring the listing of an object up to its settled state: what the updater does for entries that were left.

        Raises what a read and a delivery raise; then the entry stays.
        """
        _, account, container, name = path.split("/", 3)
        deadline_s = self.deadline_s()
        container_place, rows = self.cluster.container(account, container)
        place = self.cluster.object(policy, account, container, name)
        ports = RegisterPorts(self.cluster, place, deadline_s=deadline_s)
        version = (await Coordinator(ports).read()).version
        if version.kind == Kind.NOTHING:
            return
        descriptor = unpack_descriptor(version.descriptor)
        row = row_of(version, descriptor, descriptor.instance)
        try:
            await deliver(rows, [row], deadline_s=deadline_s,
                          settle=lambda: self.settle_for(container_place, row.instance, deadline_s))
        except DeadInstance:
            if not is_live(version):
                return
            if is_owed or await self._is_owed(place, version.stamp, deadline_s):
                instance = await self._revive(container_place, descriptor.instance, deadline_s)
                await deliver(rows, [row._replace(instance=instance)], deadline_s=deadline_s,
                              settle=lambda: self.settle_for(container_place, instance, deadline_s))
            else:
                await undo(RegisterPorts(self.cluster, place, deadline_s=deadline_s), version.stamp)

    async def _is_owed(self, place: Place, stamp: Stamp, deadline_s: float) -> bool:
        """Whether any of a quorum owes this write: only if none does it was never answered, and may be undone.

        Raises `QuorumNotMet` also while its gateway may still be about to have it owed.
        """
        if self.cluster.clock.now_us() < stamp.micros + int((self._timeout_s + OWE_S) * 1e6):
            raise QuorumNotMet(what="listing", reason="its gateway may still answer it", needed=0, answers={})
        left_s = max(deadline_s - asyncio.get_running_loop().time(), 0.001)
        answers = await asyncio.gather(*(client.owes(place.key, stamp, timeout_s=left_s) for client in place.clients),
                                       return_exceptions=True)
        counted = [answer for answer in answers if isinstance(answer, bool)]
        if not any(counted) and len(counted) < place.quorum:
            raise QuorumNotMet(what="listing", needed=place.quorum, answers={})
        return any(counted)

    async def names_body(self, path: str, policy: int, body_id: int) -> bool:
        """True if the settled state of the object has this body. Raises what a read raises."""
        _, account, container, name = path.split("/", 3)
        place = self.cluster.object(policy, account, container, name)
        ports = RegisterPorts(self.cluster, place, deadline_s=self.deadline_s())
        return (await Coordinator(ports).read()).version.body_id == body_id

    async def _revive(self, place: Place, instance: int, deadline_s: float) -> int:
        """An answered write was not listed when its container was deleted: the container is not empty after all.

        Returns the instance that lists it: another one if the container was made again meanwhile.
        """
        def decide(version: Version, ballot: Stamp) -> Version | None:
            if is_live(version) or version.kind != Kind.TOMBSTONE:
                return None
            state = unpack_container_state(version.descriptor)
            if state.instance != instance:
                return None
            return make_version(stamp=version.stamp, root=version.root, kind=Kind.LIVE, path=place.path,
                                descriptor=version.descriptor)

        outcome = await self._change(place, deadline_s, decide)
        state = unpack_container_state(outcome.version.descriptor)
        if outcome.verdict is Verdict.DONE:
            account, container = place.path[1:].split("/", 1)
            _, rows = self.cluster.account(account)
            await deliver(rows, [Row(container, "", outcome.version.stamp, True, state.instance, created_us=state.put_us)],
                          deadline_s=deadline_s, settle=None)
        return state.instance


async def undo(ports: RegisterPorts, stamp: Stamp) -> None:
    """Remove the object if its write is still what the register holds."""
    def decide(version: Version, ballot: Stamp) -> Version | None:
        if version.stamp != stamp:
            return None
        instance = unpack_descriptor(version.descriptor).instance
        return tombstone(ballot, path=version.path, descriptor=Descriptor(created_us=stamp.micros, instance=instance).pack())

    await Coordinator(ports).change(decide)


def row_of(version: Version, descriptor: Descriptor, instance: int) -> Row:
    """How a state shows in its container."""
    if version.kind != Kind.LIVE:
        return Row(_name(version.path), "", version.stamp, False, instance, created_us=descriptor.created_us)
    changed_us = descriptor.extra.get("post_us", descriptor.created_us)          # the Last-Modified of HEAD
    assert isinstance(changed_us, int)
    return Row(_name(version.path), "", version.stamp, True, instance, version.size_bytes, 0, descriptor.etag,
               descriptor.content_type, changed_us)


def _name(path: str) -> str:
    return path.split("/", 3)[3]


def _begun(target: Target) -> _Begun:
    assert isinstance(target.state, _Begun)
    return target.state


def _holders(ports: RegisterPorts, version: Version) -> list[ObjectClient]:
    """Replicas that can serve the body, those known to have it first."""
    def rank(client: ObjectClient) -> int:
        reply = ports.holders.get(client.device_id)
        if reply is None:
            return 1
        has = reply.version.body_id == version.body_id and reply.state in (BodyState.INLINE, BodyState.FILE)
        return 0 if has else 2

    return sorted(ports.place.clients, key=rank)


def _body_in(outcome: Outcome) -> bytes | None:
    """A small body that came along with a reply of the state that is served."""
    for reply in outcome.replies:
        if reply.body is not None and reply.version.body_id == outcome.version.body_id:
            return reply.body
    return None


"""Accounts and containers: registers on their rings, rows in their databases. The middle part of `proxy.store.Store`."""
from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TypeVar

from account.wire import AccountState, unpack_account_state
from common.errors import (
    BadRequest,
    Conflict,
    DeadInstance,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    QuorumNotMet,
    StorageError,
)
from common.timestamp import ZERO, Stamp
from container.client import RowClient
from container.wire import (
    ContainerState,
    ListEntry,
    PageAnswer,
    PageRequest,
    Row,
    unpack_container_state,
)
from object.wire import DESCRIPTOR_BYTES_MAX, Kind, Version, make_version
from proxy.cluster import Cluster, Place, RegisterPorts, RowPlace
from proxy.coordinator import Coordinator, Look, Outcome, Replies, Verdict, is_live
from proxy.model import AccountInfo, ContainerEntry, ContainerInfo, MetaChange, ObjectEntry, Page, Subdir
from proxy.rows import LAG_S, deliver, list_rows
from proxy.witness import Witness, explain

FRESH_S = 1.0                            # how old container metadata may be that a read relies on
ACCOUNT_LOOK_S = 1.0
CACHE_MAX = 5_000                        # registers of accounts and containers, about 1 KiB each
INFOS_MAX = 2_000
LIVE_ROWS = 100                          # looked at in one step of a deletion
T = TypeVar("T")
_SHOWN = itemgetter(0, 1, 3, 4, 5)       # of a row in a listing: name, size, etag, content type, created
_object_entry: Callable[[tuple[object, ...]], ObjectEntry] = partial(tuple.__new__, ObjectEntry)     # a tenth of what _make costs


class Cache:
    """Versions of registers by key, for `FRESH_S`."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[float, Version]] = OrderedDict()

    def get(self, key: bytes, now_s: float) -> Version | None:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and now_s - entry[0] < FRESH_S else None

    def last(self, key: bytes) -> Version | None:
        """Whatever was known last, for guesses that are checked."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None else None

    def put(self, key: bytes, version: Version, now_s: float) -> None:
        self._entries[key] = (now_s, version)
        self._entries.move_to_end(key)
        if len(self._entries) > CACHE_MAX:
            self._entries.popitem(last=False)


class Containers:
    """See the module. One per worker."""

    def __init__(self, cluster: Cluster, *, request_timeout_s: float, default_policy: int) -> None:
        self.cluster, self._timeout_s, self._default_policy = cluster, request_timeout_s, default_policy
        self.cache = Cache()
        self._infos: dict[bytes, ContainerInfo] = {}             # by descriptor: every write of an object asks for it

    # --- registers -----------------------------------------------------------------------------------------------

    def deadline_s(self) -> float:
        """Of an operation that begins now, in the loop's clock."""
        return self.cluster.loop.time() + self._timeout_s

    def ports(self, place: Place, deadline_s: float) -> RegisterPorts:
        """For one operation on the register of an account or container."""
        return RegisterPorts(self.cluster, place, deadline_s=deadline_s, is_durable=True)

    async def state(self, place: Place, deadline_s: float, *, fresh: bool) -> Version:
        """The settled state of a register, up to a second old unless `fresh`."""
        now_s = self.cluster.loop.time()
        version = None if fresh else self.cache.get(place.key, now_s)
        if version is None:
            version = (await Coordinator(self.ports(place, deadline_s)).read()).version
            self.cache.put(place.key, version, now_s)
        return version

    async def settled(self, ports: RegisterPorts, replies: Replies) -> Version:
        """The state that these replies of a first look show, settled if they differ."""
        now_s = self.cluster.loop.time()
        coordinator = Coordinator(ports)
        agreed = coordinator.agreed(replies)
        if agreed is not None:
            version = agreed.version
        else:
            coordinator.saw(replies)
            version = (await coordinator.read(replies=replies)).version
        self.cache.put(ports.place.key, version, now_s)
        return version

    def container_of(self, account: str, name: str, version: Version) -> ContainerInfo:
        """As `container_info`, without figures, and remembered. Raises `NotFound`."""
        if not is_live(version):
            raise NotFound(what="container")
        info = self._infos.get(version.descriptor)
        if info is None or info.name != name or info.account != account:
            if len(self._infos) >= INFOS_MAX:
                self._infos.clear()
            info = self._infos[version.descriptor] = container_info(account, name, version)
        return info

    async def settle(self, place: Place, deadline_s: float) -> None:
        """End whatever change of this register is under way, by one that keeps its state."""
        await Coordinator(self.ports(place, deadline_s)).change(lambda version, ballot: None)

    async def settle_for(self, place: Place, instance: int, deadline_s: float) -> None:
        """The same, for rows of this instance of a container. Raises `DeadInstance` if it is gone, `QuorumNotMet`."""
        try:
            outcome = await Coordinator(self.ports(place, deadline_s)).change(lambda version, ballot: None)
        except OutcomeUnknown as error:
            raise QuorumNotMet(what="container", reason=error.code) from error
        version = outcome.version
        held = unpack_container_state(version.descriptor).instance if version.descriptor else 0
        if held > instance or not is_live(version):
            raise DeadInstance(instance=instance)

    async def _change(self, place: Place, deadline_s: float,
                      decide: Callable[[Version, Stamp], Version | Awaitable[Version | None] | None], *,
                      is_idempotent: bool = False) -> Outcome:
        """What `decide` raises is raised once the old state stands again: no row waits behind a promise left open."""
        now_s = self.cluster.loop.time()
        refusal: StorageError | None = None

        async def guarded(version: Version, ballot: Stamp) -> Version | None:
            nonlocal refusal
            refusal = None
            try:
                wanted = decide(version, ballot)
                return await wanted if isinstance(wanted, Awaitable) else wanted
            except StorageError as error:
                refusal = error
                return None

        outcome = await Coordinator(self.ports(place, deadline_s)).change(guarded, is_idempotent=is_idempotent)
        self.cache.put(place.key, outcome.version, now_s)
        if refusal is not None:
            raise refusal
        return outcome

    # --- accounts ------------------------------------------------------------------------------------------------

    async def account(self, name: str, *, fresh: bool = False) -> AccountInfo:
        deadline_s = self.deadline_s()
        place, rows = self.cluster.account(name)
        state = _account_state(await self.state(place, deadline_s, fresh=fresh))
        if not fresh:
            return _account_info(name, state, None)
        return _account_info(name, state, await list_rows(rows, PageRequest(0), instance=0, deadline_s=deadline_s))

    async def need_account(self, name: str) -> None:
        """Raises `NotFound` for containers of an account that is deleted or was never made; it may be known a second late.

        Costs nothing while the account is remembered. Accounts without a quorum take down none of their containers.
        """
        place, _ = self.cluster.account(name)
        loop = self.cluster.loop
        version = self.cache.get(place.key, loop.time())
        if version is not None and is_live(version):
            return
        try:
            version = await self.state(place, loop.time() + ACCOUNT_LOOK_S, fresh=True)
        except (QuorumNotMet, OutcomeUnknown, DeadlineExceeded):
            return
        if not is_live(version):
            raise NotFound(what="account")

    async def create_account(self, name: str, change: MetaChange) -> bool:
        place, _ = self.cluster.account(name)
        was_new = False

        def decide(version: Version, ballot: Stamp) -> Version | None:
            nonlocal was_new
            was_new = not is_live(version)
            if not was_new and change.is_empty:
                return None                                      # it is there, whoever made it
            if version.kind == Kind.TOMBSTONE:
                raise Conflict(what="account")                   # its containers are still to be emptied
            now_us = self.cluster.clock.now_us()
            if was_new:
                state = AccountState(created_us=now_us, put_us=now_us)
            else:
                state = unpack_account_state(version.descriptor)
            meta, headers = merge(state.meta, state.headers, change)
            state = AccountState(created_us=state.created_us, put_us=max(now_us, state.put_us), meta=meta, headers=headers)
            return make_version(stamp=ZERO, root=ZERO, kind=Kind.LIVE, path=place.path, descriptor=bounded(state.pack()))

        await self._change(place, self.deadline_s(), decide, is_idempotent=change.is_empty)
        return was_new

    async def post_account(self, name: str, change: MetaChange) -> None:
        place, _ = self.cluster.account(name)

        def decide(version: Version, ballot: Stamp) -> Version | None:
            if not is_live(version):
                return None
            state = unpack_account_state(version.descriptor)
            meta, headers = merge(state.meta, state.headers, change)
            state = AccountState(created_us=state.created_us, put_us=max(self.cluster.clock.now_us(), state.put_us + 1),
                                 meta=meta, headers=headers)
            return make_version(stamp=ZERO, root=ZERO, kind=Kind.LIVE, path=place.path, descriptor=bounded(state.pack()))

        outcome = await self._change(place, self.deadline_s(), decide)
        if outcome.verdict is Verdict.REFUSED:
            raise NotFound(what="account")

    async def delete_account(self, name: str) -> None:
        """Hides it at once."""
        place, _ = self.cluster.account(name)

        def decide(version: Version, ballot: Stamp) -> Version | None:
            if not is_live(version):
                return None
            return make_version(stamp=ZERO, root=ZERO, kind=Kind.TOMBSTONE, path=place.path, descriptor=version.descriptor)

        if (await self._change(place, self.deadline_s(), decide)).verdict is Verdict.REFUSED:
            raise NotFound(what="account")

    async def list_account(self, name: str, page: Page) -> tuple[AccountInfo, list[ContainerEntry | Subdir]]:
        deadline_s = self.deadline_s()
        place, rows = self.cluster.account(name)
        state = _account_state(await self.state(place, deadline_s, fresh=True))
        answer = await list_rows(rows, page_request(page), instance=0, deadline_s=deadline_s)
        entries = [Subdir(entry) if isinstance(entry, str) else ContainerEntry(entry[0], entry[2], entry[1], entry[5])
                   for entry in answer.entries]
        return _account_info(name, state, answer), entries

    # --- containers ----------------------------------------------------------------------------------------------

    async def container(self, account: str, name: str, *, fresh: bool = False) -> ContainerInfo:
        await self.need_account(account)
        deadline_s = self.deadline_s()
        place, rows = self.cluster.container(account, name)
        version = await self.state(place, deadline_s, fresh=fresh)
        info = container_info(account, name, version)
        if not fresh:
            return info
        answer = await list_rows(rows, PageRequest(0), instance=info.instance, deadline_s=deadline_s,
                                 settle=lambda: self.settle(place, deadline_s))
        return container_info(account, name, version, answer)

    async def put_container(self, account: str, name: str, change: MetaChange, *, policy: int | None) -> bool:
        deadline_s = self.deadline_s()
        account_place, account_rows = self.cluster.account(account)
        _account_state(await self.state(account_place, deadline_s, fresh=True))
        place, _ = self.cluster.container(account, name)
        was_new = False
        refusal: StorageError | None = None

        def decide(version: Version, ballot: Stamp) -> Version | None:
            nonlocal was_new, refusal
            was_new, refusal = not is_live(version), None
            state = self._new_container(version, policy) if was_new else unpack_container_state(version.descriptor)
            if policy is not None and state.policy != policy:
                refusal = Conflict(what="policy", has=state.policy)
                return None
            if not was_new and change.is_empty:
                return None                                      # it is there, whoever made it
            return _changed_container(place, state, change, self.cluster.clock.now_us())

        outcome = await self._change(place, deadline_s, decide, is_idempotent=change.is_empty)
        if refusal is not None:
            raise refusal
        state = unpack_container_state(outcome.version.descriptor)
        row = Row(name, "", outcome.version.stamp, True, state.instance, created_us=state.put_us)
        await self._deliver_account_row(account_place, account_rows, row, deadline_s)
        return was_new

    def _new_container(self, version: Version, policy: int | None) -> ContainerState:
        """instance: higher than that of any container of this name before."""
        now_us = self.cluster.clock.now_us()
        instance = now_us << 12 | self.cluster.rng.getrandbits(12)
        if version.kind == Kind.TOMBSTONE and version.descriptor:
            instance = max(instance, unpack_container_state(version.descriptor).instance + 1)
        return ContainerState(instance=instance, created_us=now_us, put_us=0,
                              policy=self._default_policy if policy is None else policy)

    async def post_container(self, account: str, name: str, change: MetaChange) -> None:
        await self.need_account(account)
        place, _ = self.cluster.container(account, name)

        def decide(version: Version, ballot: Stamp) -> Version | None:
            if not is_live(version):
                return None
            return _changed_container(place, unpack_container_state(version.descriptor), change, self.cluster.clock.now_us())

        if (await self._change(place, self.deadline_s(), decide)).verdict is Verdict.REFUSED:
            raise NotFound(what="container")

    async def delete_container(self, account: str, name: str) -> None:
        await self.need_account(account)
        deadline_s = self.deadline_s()
        account_place, account_rows = self.cluster.account(account)
        place, rows = self.cluster.container(account, name)
        refusal: StorageError = NotFound(what="container")

        async def decide(version: Version, ballot: Stamp) -> Version | None:
            nonlocal refusal
            if not is_live(version):
                refusal = NotFound(what="container")
                return None
            instance = unpack_container_state(version.descriptor).instance
            if await self._has_rows(rows, instance, ballot, deadline_s):
                refusal = Conflict(what="container")             # not empty
                return None
            return make_version(stamp=ZERO, root=ZERO, kind=Kind.TOMBSTONE, path=place.path, descriptor=version.descriptor)

        outcome = await self._change(place, deadline_s, decide)
        if outcome.verdict is Verdict.REFUSED:
            raise refusal
        instance = unpack_container_state(outcome.version.descriptor).instance
        row = Row(name, "", outcome.version.stamp, False, instance, created_us=self.cluster.clock.now_us())
        await self._deliver_account_row(account_place, account_rows, row, deadline_s)

    async def _has_rows(self, rows: RowPlace, instance: int, ballot: Stamp, deadline_s: float) -> bool:
        """Whether anything is listed, by a quorum whose promise stands: rows that come later wait behind it.

        A live row of one replica counts unless another one knows that its name is gone: one that lags is no obstacle.
        """
        after = ""
        while True:
            found = await _quorum_of(rows, deadline_s, lambda client, left_s, a=after: client.live_rows(  # type: ignore[misc]
                rows.key, instance=instance, ballot=ballot, after=a, limit=LIVE_ROWS, timeout_s=left_s))
            names = sorted({row.name for page in found for row in page})[:LIVE_ROWS]
            if not names:
                return False
            newest: dict[tuple[str, str], Row] = {}
            for page in await _quorum_of(rows, deadline_s, lambda client, left_s, n=names: client.rows_of(  # type: ignore[misc]
                    rows.key, n, timeout_s=left_s)):
                for row in page:
                    known = newest.get((row.name, row.version))
                    if known is None or known.stamp < row.stamp:
                        newest[row.name, row.version] = row
            if any(row.is_live and row.instance >= instance for row in newest.values()):
                return True
            after = names[-1]

    async def _deliver_account_row(self, place: Place, rows: RowPlace, row: Row, deadline_s: float) -> None:
        await deliver(rows, [row], deadline_s=deadline_s, settle=None)

    async def list_container(self, account: str, name: str, page: Page) -> tuple[ContainerInfo, list[ObjectEntry | Subdir]]:
        await self.need_account(account)
        deadline_s = self.deadline_s()
        place, rows = self.cluster.container(account, name)
        version = await self.state(place, deadline_s, fresh=True)        # of another worker's PUT, POST or DELETE too
        info = container_info(account, name, version)
        answer = await list_rows(rows, page_request(page), instance=info.instance, deadline_s=deadline_s,
                                 settle=lambda: self.settle(place, deadline_s))
        return container_info(account, name, version, answer), object_entries(answer.entries)

    def begin_look(self, account: str, name: str, deadline_s: float) -> tuple[RegisterPorts, object]:
        """The first look at a container, sent but not awaited: it travels with the object's."""
        place, _ = self.cluster.container(account, name)
        ports = self.ports(place, deadline_s)
        return ports, ports.begin(Look(None), lambda replies: len(replies) >= ports.quorum)

    def guessed_policy(self, account: str, name: str) -> int:
        """The policy last known for a container; checked against its state before anything is written."""
        place, _ = self.cluster.container(account, name)
        version = self.cache.last(place.key)
        if version is None or not is_live(version):
            return self._default_policy
        return unpack_container_state(version.descriptor).policy


async def _quorum_of(rows: RowPlace, deadline_s: float,
                     ask: Callable[[RowClient, float], Awaitable[list[Row]]]) -> list[list[Row]]:
    """The answers of the replicas that count, a quorum at least; one that hangs is not waited for. Raises `QuorumNotMet`."""
    left_s = max(deadline_s - asyncio.get_running_loop().time(), 0.001)
    asked = {asyncio.ensure_future(ask(client, left_s)): client for client in rows.clients}
    found: list[list[Row]] = []
    witness, loop = Witness(), asyncio.get_running_loop()
    began_s = loop.time()
    waiting = set(asked)
    try:
        while waiting:
            patience_s = LAG_S if len(found) >= rows.quorum else None
            finished, waiting = await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not finished:
                break
            for answer in finished:
                error = answer.exception()
                if error is None:
                    found.append(answer.result())
                elif isinstance(error, StorageError):
                    witness.note(asked[answer].device_id, "rows", error, (loop.time() - began_s) * 1e3)
                else:
                    raise error
    finally:
        for answer in waiting:
            answer.cancel()
    if len(found) < rows.quorum:
        raise explain(QuorumNotMet(needed=rows.quorum, what="rows", answers=witness.codes()), "quorum.rows", witness,
                      path=rows.path, needed=rows.quorum, replicas=len(rows.clients))
    return found


def object_entries(entries: Sequence[ListEntry | str]) -> list[ObjectEntry | Subdir]:
    """What a page shows. Its thousand rows go through C alone, if no name is rolled up."""
    if str in set(map(type, entries)):
        return [Subdir(entry) if isinstance(entry, str) else _object_entry(_SHOWN(entry)) for entry in entries]
    return list(map(_object_entry, map(_SHOWN, entries)))


def bounded(packed: bytes) -> bytes:
    """What a version carries, if every replica can take it and every reply bring it. Raises `BadRequest`."""
    if len(packed) > DESCRIPTOR_BYTES_MAX:
        raise BadRequest(reason=f"Metadata and headers of more than {DESCRIPTOR_BYTES_MAX} bytes in all")
    return packed


def page_request(page: Page) -> PageRequest:
    """Swift's path= is a prefix and a delimiter without rolled-up names."""
    if page.path is not None:
        prefix = page.path.rstrip("/") + "/" if page.path else ""
        return PageRequest(page.limit, page.marker, page.end_marker, prefix, "/", page.reverse, True)
    return PageRequest(page.limit, page.marker, page.end_marker, page.prefix, page.delimiter, page.reverse)


def merge(meta: Mapping[str, str], headers: Mapping[str, str], change: MetaChange) -> tuple[dict[str, str], dict[str, str]]:
    """The merged maps, checked. An empty value removes."""
    merged = {name: value for name, value in {**meta, **change.meta}.items() if value != ""}
    if change.check is not None:
        change.check(merged)
    return merged, {name: value for name, value in {**headers, **change.headers}.items() if value != ""}


def _changed_container(place: Place, state: ContainerState, change: MetaChange, now_us: int) -> Version:
    meta, headers = merge(state.meta, state.headers, change)
    state = ContainerState(instance=state.instance, created_us=state.created_us, put_us=max(now_us, state.put_us + 1),
                           policy=state.policy, meta=meta, headers=headers, shards=state.shards)
    return make_version(stamp=ZERO, root=ZERO, kind=Kind.LIVE, path=place.path, descriptor=bounded(state.pack()))


def container_info(account: str, name: str, version: Version, answer: PageAnswer | None = None) -> ContainerInfo:
    """Raises `NotFound`."""
    if not is_live(version):
        raise NotFound(what="container")
    state = unpack_container_state(version.descriptor)
    return ContainerInfo(account=account, name=name, instance=state.instance, created_us=state.created_us,
                         put_us=state.put_us, policy=state.policy, meta=state.meta, headers=state.headers,
                         object_count=answer.figures.row_count if answer else 0,
                         bytes_used=answer.figures.size_bytes if answer else 0)


def _account_state(version: Version) -> AccountState:
    if not is_live(version):
        raise NotFound(what="account")
    return unpack_account_state(version.descriptor)


def _account_info(name: str, state: AccountState, answer: PageAnswer | None) -> AccountInfo:
    figures = answer.figures if answer is not None else None
    return AccountInfo(name=name, created_us=state.created_us, put_us=state.put_us, meta=state.meta, headers=state.headers,
                       container_count=figures.row_count if figures else 0,
                       object_count=figures.object_count if figures else 0,
                       bytes_used=figures.size_bytes if figures else 0)

"""The feed: what the gateways have to know to judge tokens by themselves, and every change of it, as soon as it is committed.

After each move of the counter of authorization changes the tables are read in one transaction and compared with what was sent
before. So no use-case has to say what it changed, nothing is ever missed, and a change that another process made on the same
database is as good as one of our own. Protocol and records: identity/wire.py.

A row that no record can be made of is left out, which takes power away and never gives any, and is told of (`Feed.left_out`); for
revocations and keys, where it would give some, and for a database that cannot be read, the pass fails. A producer whose last pass
failed answers nobody: gateways count as cut off (proxy/identity_auth.py), not as told that there is nothing new.

Budget of a pass over 10 000 users, 10 000 projects and as many grants: see docs/performance.md; in a thread of the database, with
`_REST` times its duration between two passes, so that a flood of changes costs the Identity API at most a quarter of its time.
"""
from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
from cryptography.fernet import Fernet
from sqlalchemy import Connection, Text, cast, select

from common.errors import IdentityAway, StorageError
from common.log import Repeats, get_logger
from common.rpc_server import Answer, Call
from identity.bootstrap import v1_name_of
from identity.effective import SYSTEM, load_graph
from identity.keys import KeySet
from identity.model import (
    access_rule,
    access_token,
    app_credential,
    app_credential_access_rule,
    app_credential_role,
    assignment,
    credential,
    group,
    membership,
    project,
    revocation,
    trust,
    trust_role,
    user,
)
from identity.scopes import CONFINED
from identity.state import Identity, read_generation
from identity.wire import (
    FEED_WAIT_S,
    GRANT_BELOW_DOMAIN,
    GRANT_BELOW_PROJECT,
    GRANT_DOMAIN,
    GRANT_PROJECT,
    GRANT_SYSTEM,
    TABLES,
    Change,
    Id,
    pack_events,
    pack_id,
    pack_record,
)

_LOOK_S = 0.25                           # for changes that other processes made, besides being woken by our own
_REST = 3                                # a pass that took t is followed by a rest of so many t
_EVENTS_MAX, _EVENTS_BYTES_MAX = 10_000, 8 << 20         # kept; who is further behind takes a snapshot
_PART_BYTES_MAX = 2 << 20                # of a snapshot, so that an answer fits into a frame
_ANSWER_BYTES_MAX = 1 << 20              # events of one answer; at least one
_SNAPSHOT_S = 10.0                       # one in several parts stays while gateways fetch them
_FORGET_S = 600.0                        # revocations that no living token can meet leave
_GRANTS = {("project", False): GRANT_PROJECT, ("domain", False): GRANT_DOMAIN, ("system", False): GRANT_SYSTEM,
           ("project", True): GRANT_BELOW_PROJECT, ("domain", True): GRANT_BELOW_DOMAIN}
_TOLD_MAX = 20                           # rows left out that are logged one by one and shown
_log = get_logger("identity.feed")
Content = dict[str, dict[Id, bytes]]
Grants = dict[tuple[str, str], list[tuple[int, Id, Id]]]


class _Taker:
    """Turns rows into records; keeps going past a row that cannot be one. left_out: (table, id) to the reason."""

    def __init__(self) -> None:
        self.left_out: dict[tuple[str, str], str] = {}

    def take(self, table: str, rows: Iterable[Any], make: Callable[[Any], tuple[Id, bytes]]) -> dict[Id, bytes]:
        """rows: all read already, the id in their first column."""
        out: dict[Id, bytes] = {}
        for row in rows:
            try:
                key, record = make(row)
                if isinstance(key, str):
                    key.encode()                         # it would break the answer that it is part of
            except Exception as error:                   # whatever one row holds, the others go on
                self.leave_out(table, row[0], error)
            else:
                out[key] = record
        return out

    def leave_out(self, table: str, row_id: object, error: Exception) -> None:
        """Only the kind of the error: its text may show what the row holds."""
        self.left_out[table, str(row_id)] = type(error).__name__


class Reader:
    """Reads the tables as records. transport: seals secrets on their way."""

    def __init__(self, vault: KeySet, transport: Fernet) -> None:
        self._vault, self._transport = vault, transport
        self._keys: tuple[tuple[str, ...], bytes] = ((), b"")
        self._s3_keys: dict[str, tuple[str, bytes]] = {}         # id: (sealed for the database, for the transport; b"" if bad)
        self.left_out: dict[tuple[str, str], str] = {}           # by the last pass
        self._revocations: dict[Id, bytes] = {}
        self._revocation_number = 0

    def read(self, connection: Connection, keys: tuple[str, ...], *, revoked_after_us: int) -> tuple[int, Content]:
        """(counter, all records). The counter first: on a database without snapshots what follows may be newer, never older."""
        generation = read_generation(connection)
        if revoked_after_us:
            self._revocations, self._revocation_number = {}, 0
        taker = _Taker()
        grants = _grants(connection, taker)
        content: Content = {
            "key": {"": self._sealed_keys(keys)}, "role": _roles(connection, taker), **_projects(connection, taker),
            "user": _users(connection, taker, grants),
            "group": taker.take("group", connection.execute(select(group.c.id)).all(),
                                lambda row: (pack_id(row.id), pack_record(grants.get(("group", row.id), ())))),
            "trust": _trusts(connection, taker), "app_credential": _app_credentials(connection, taker),
            "access_token": _access_tokens(connection, taker), "s3_key": self._s3(connection, taker),
            "revocation": self._revoked(connection, revoked_after_us)}
        assert content.keys() == set(TABLES)
        self._tell_left_out(taker.left_out)
        return generation, content

    def _tell_left_out(self, left_out: dict[tuple[str, str], str]) -> None:
        """Each row once, as long as it stays so."""
        news = [what for what in left_out if what not in self.left_out]
        for table, row_id in news[:_TOLD_MAX]:
            _log.error("row cannot be told to gateways, it is left out: delete or change it", table=table, id=row_id,
                       reason=left_out[table, row_id])
        if len(news) > _TOLD_MAX:
            _log.error("more rows cannot be told to gateways", count=len(news) - _TOLD_MAX)
        self.left_out = left_out

    def _sealed_keys(self, keys: tuple[str, ...]) -> bytes:
        """Sealed once: a seal is never the same twice, and would look like a change."""
        if self._keys[0] != keys:
            self._keys = keys, pack_record(self._transport.encrypt(msgpack.packb(keys)))
        return self._keys[1]

    def _s3(self, connection: Connection, taker: _Taker) -> dict[Id, bytes]:
        rows = connection.execute(select(
            credential.c.id, credential.c.access_digest, credential.c.user_id, credential.c.project_id,
            credential.c.app_credential_id, credential.c.trust_id, credential.c.sealed)
            .where(credential.c.type == "ec2", credential.c.access_digest.is_not(None))).all()
        known, self._s3_keys = self._s3_keys, {}

        def make(row: Any) -> tuple[Id, bytes]:
            sealed, ours = known.get(row.id, ("", b""))
            if sealed != row.sealed:
                self._s3_keys[row.id] = row.sealed, b""          # if it is bad, that is known from now on
                ours = self._transport.encrypt(msgpack.packb(_secret_in(self._vault.open_text(row.sealed))))
            self._s3_keys[row.id] = row.sealed, ours
            if not ours:
                raise ValueError("bad when it was opened")
            whose = pack_id(row.user_id), pack_id(row.project_id or "")
            return row.access_digest, pack_record(*whose, _or_nil(row.app_credential_id), _or_nil(row.trust_id), ours)

        return taker.take("s3_key", rows, make)

    def _revoked(self, connection: Connection, after_us: int) -> dict[Id, bytes]:
        """Only what is new is read; a later revocation of the same thing takes the place of an earlier one."""
        rows = connection.execute(select(revocation).where(
            revocation.c.number > self._revocation_number, revocation.c.revoked_us > after_us).order_by(revocation.c.number)).all()
        self._revocations = dict(self._revocations)
        for row in rows:
            self._revocations[f"{row.kind} {row.value}"] = pack_record(row.number)
            self._revocation_number = row.number
        return self._revocations


def _or_nil(text: str | None) -> Id | None:
    return None if text is None else pack_id(text)


def _secret_in(blob: str) -> str:
    secret = json.loads(blob)["secret"]
    if not isinstance(secret, str):
        raise ValueError("the secret is no text")
    return secret


def _roles(connection: Connection, taker: _Taker) -> dict[Id, bytes]:
    graph = load_graph(connection)

    def make(row: tuple[str, str]) -> tuple[Id, bytes]:
        implied = sorted(graph.implied.get(row[0], ()))
        return pack_id(row[0]), pack_record(row[1], bool(graph.domains[row[0]]), [pack_id(other) for other in implied])

    return taker.take("role", graph.names.items(), make)


def _projects(connection: Connection, taker: _Taker) -> Content:
    """Tables `domain` and `project`."""
    columns = project.c
    rows = connection.execute(select(columns.id, columns.options).where(cast(columns.options, Text).contains(CONFINED))).all()
    confined = {row.id for row in rows if row.options.get(CONFINED)}         # of most projects no options are parsed

    def make(row: Any) -> tuple[Id, bytes]:
        row_id, name, domain_id, parent_id, _, enabled = row
        parent = "" if parent_id in (None, domain_id) else parent_id
        return pack_id(row_id), pack_record(enabled, name, pack_id(domain_id), pack_id(parent), row_id in confined)

    found = connection.execute(select(columns.id, columns.name, columns.domain_id, columns.parent_id, columns.is_domain,
                                      columns.enabled)).all()
    kinds: tuple[list[Any], list[Any]] = [], []          # projects, domains; by position: names of columns cost as much again
    for row in found:
        kinds[row[4]].append(row)
    return {"domain": taker.take("domain", kinds[True], lambda row: (pack_id(row.id), pack_record(row.enabled, row.name))),
            "project": taker.take("project", kinds[False], make)}


def _grants(connection: Connection, taker: _Taker) -> Grants:
    """(kind, id) of an actor to its grants."""
    out: Grants = {}
    columns = assignment.c
    for kind, actor, target_kind, target, role_id, is_inherited in connection.execute(select(
            columns.actor_kind, columns.actor_id, columns.target_kind, columns.target_id, columns.role_id, columns.is_inherited)
            .order_by(columns.target_kind, columns.target_id, columns.role_id, columns.is_inherited)).all():
        meant = _GRANTS.get((target_kind, bool(is_inherited)))
        if meant is None:                                # no rule reads such a grant
            taker.leave_out("assignment", f"{actor} {target_kind} {target} {role_id}", ValueError("no such kind"))
            continue
        out.setdefault((kind, actor), []).append((meant, "" if target == SYSTEM else pack_id(target), pack_id(role_id)))
    return out


def _users(connection: Connection, taker: _Taker, grants: Grants) -> dict[Id, bytes]:
    groups: dict[str, list[Id]] = {}
    for user_id, group_id in connection.execute(select(membership.c.user_id, membership.c.group_id)
                                                .order_by(membership.c.user_id, membership.c.group_id)):
        groups.setdefault(user_id, []).append(pack_id(group_id))

    def make(row: Any) -> tuple[Id, bytes]:
        row_id, enabled, name, domain_id, source_print = row
        v1_name = v1_name_of(row_id, name) if source_print is not None else ""
        return pack_id(row_id), pack_record(enabled, name, pack_id(domain_id), groups.get(row_id, ()), v1_name,
                                            grants.get(("user", row_id), ()))

    return taker.take("user", connection.execute(select(user.c.id, user.c.enabled, user.c.name, user.c.domain_id,
                                                        user.c.source_print)).all(), make)


def _trusts(connection: Connection, taker: _Taker) -> dict[Id, bytes]:
    roles = _links(connection, select(trust_role.c.trust_id, trust_role.c.role_id))

    def make(row: Any) -> tuple[Id, bytes]:
        people = pack_id(row.trustor_user_id), pack_id(row.trustee_user_id)
        return pack_id(row.id), pack_record(*people, pack_id(row.project_id or ""), row.expires_us,
                                            _or_nil(row.redelegated_trust_id), roles.get(row.id, ()))

    columns = trust.c
    return taker.take("trust", connection.execute(select(
        columns.id, columns.trustor_user_id, columns.trustee_user_id, columns.project_id, columns.expires_us,
        columns.redelegated_trust_id).where(columns.deleted_us.is_(None))).all(), make)


def _app_credentials(connection: Connection, taker: _Taker) -> dict[Id, bytes]:
    roles = _links(connection, select(app_credential_role.c.app_credential_id, app_credential_role.c.role_id))
    rules: dict[str, list[tuple[str, str, str]]] = {}
    link = app_credential_access_rule
    for row in connection.execute(select(link.c.app_credential_id, access_rule).join(
            access_rule, access_rule.c.id == link.c.access_rule_id).order_by(access_rule.c.id)):
        rules.setdefault(row.app_credential_id, []).append((row.service, row.path, row.method))

    def make(row: Any) -> tuple[Id, bytes]:
        return pack_id(row.id), pack_record(pack_id(row.user_id), pack_id(row.project_id), row.expires_us, roles.get(row.id, ()),
                                            rules.get(row.id))

    columns = app_credential.c
    return taker.take("app_credential", connection.execute(select(columns.id, columns.user_id, columns.project_id,
                                                                  columns.expires_us)).all(), make)


def _access_tokens(connection: Connection, taker: _Taker) -> dict[Id, bytes]:
    def make(row: Any) -> tuple[Id, bytes]:
        return pack_id(row.id), pack_record(pack_id(row.user_id), pack_id(row.project_id), row.expires_us,
                                            sorted(map(pack_id, row.role_ids["ids"]), key=repr))

    columns = access_token.c
    return taker.take("access_token", connection.execute(select(columns.id, columns.user_id, columns.project_id,
                                                                columns.expires_us, columns.role_ids)).all(), make)


def _links(connection: Connection, statement: Any) -> dict[str, list[Id]]:
    """Two columns: owner, role; roles by owner."""
    out: dict[str, list[Id]] = {}
    for owner, role_id in connection.execute(statement):
        out.setdefault(owner, []).append(pack_id(role_id))
    return {owner: sorted(ids, key=repr) for owner, ids in out.items()}


def compare(old: Content, new: Content) -> Change:
    """What turns one into the other: records that are new or other, nil for those that are gone."""
    out: Change = {}
    for table in TABLES:
        before, after = old.get(table, {}), new[table]
        if before is after:
            continue
        changed: dict[Id, bytes | None] = {key: record for key, record in after.items() if before.get(key) != record}
        changed |= dict.fromkeys(before.keys() - after.keys())
        if changed:
            out[table] = changed
    return out


@dataclass(slots=True)
class _Snapshot:
    position: int
    made_s: float
    parts: list[bytes] = field(default_factory=list)


class Feed:
    """The producer: one task that reads and compares, one handler that answers gateways."""

    def __init__(self, state: Identity, *, transport: bytes) -> None:
        """transport: of `identity.wire.transport_key`."""
        self._state = state
        self._reader = Reader(state.vault, Fernet(transport))
        self._epoch = os.urandom(8).hex()
        self.position = 0                                # of the newest event
        self.generation = 0
        self._keys: tuple[str, ...] = ()
        self._content: Content = {}
        self._events: deque[bytes] = deque()             # of positions .. `position`, each as `pack_events` packs one
        self._events_bytes = 0
        self._repeats = Repeats(_log)
        self._snapshot: _Snapshot | None = None
        self._forgot_s = 0.0
        self.failure = "nothing was read yet"            # of the last pass; "" after one that was good
        self._is_doubted = False                         # the database has moved on, though nobody in this process knows how
        self._wake, self._news = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the first content is there, or could not be read: identity serves, and the feed tries again."""
        self._state.on_change = self._wake.set
        await self._try()
        self._task = asyncio.create_task(self._run(), name="feed")

    async def close(self) -> None:
        """Nothing is read any more."""
        self._state.on_change = self._wake.clear
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def wake(self) -> None:
        """Token keys changed."""
        self._wake.set()

    async def _run(self) -> None:
        clock = self._state.clock
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            is_known = self._state.generation == self.generation and self._state.keys.texts == self._keys
            if is_known and not self.failure and not self._is_doubted:
                continue
            began_s, self._is_doubted = clock.monotonic_s(), False
            await self._try()
            await asyncio.sleep(min(_REST * (clock.monotonic_s() - began_s), 0.5))

    async def _try(self) -> None:
        try:
            await self.refresh()
        except Exception as error:                       # the edge of a daemon: the next round tries again
            reason = type(error).__name__
            if isinstance(error, StorageError):
                self._repeats.warning("gateways are not told of changes", about=reason, error=error)
            else:
                self._repeats.error("gateways are not told of changes", about=reason, exc=error)

    async def refresh(self) -> None:
        """Read, compare, and let the gateways know. Raises what the database raises."""
        state, now_s, after_us = self._state, self._state.clock.monotonic_s(), 0
        if now_s - self._forgot_s > _FORGET_S or not self._forgot_s:
            after_us = max(state.clock.now_us() - 2 * state.config.token_life_s * 1_000_000 - 60_000_000, 1)
        keys = state.keys.texts
        try:
            generation, content = await state.database.read(self._reader.read, keys, revoked_after_us=after_us)
            changes = compare(self._content, content)
            packed = pack_events([(generation, changes)])[1:]          # without the head of a list of one
        except Exception as error:
            self._fail(error)
            raise
        self.failure = ""
        self._forgot_s = now_s if after_us else self._forgot_s
        self._content, self._keys = content, keys
        if changes or generation != self.generation:
            self._append(generation, packed)

    def _fail(self, error: Exception) -> None:
        """Whoever waits for news learns that there may be some."""
        self.failure = f"{type(error).__name__}: the tables cannot be read"
        self._tell()

    def status(self) -> dict[str, Any]:
        """For `holdfast status`: why gateways are not told anything, and which rows they are not told of."""
        left_out = self._reader.left_out
        return {"failure": self.failure, "left_out_count": len(left_out),
                "left_out": [f"{table} {row_id}" for table, row_id in list(left_out)[:_TOLD_MAX]]}

    @property
    def _oldest(self) -> int:
        """Whoever holds this position can be told of what came after it."""
        return self.position - len(self._events)

    def _append(self, generation: int, packed: bytes) -> None:
        self._events.append(packed)
        self._events_bytes += len(packed)
        while len(self._events) > 1 and (len(self._events) > _EVENTS_MAX or self._events_bytes > _EVENTS_BYTES_MAX):
            self._events_bytes -= len(self._events.popleft())
        self.position += 1
        self.generation = generation
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def answer(self, call: Call) -> Answer:
        """One op FEED of a gateway. Raises `IdentityAway` while nothing can be said for certain."""
        epoch, position, part = call.fields
        self._check()
        if epoch != self._epoch or part or not self._oldest <= position <= self.position:
            return self._answer_snapshot(epoch, position, part)
        if position == self.position:
            try:
                async with asyncio.timeout(FEED_WAIT_S):
                    await self._news.wait()
            except TimeoutError:
                await self._look()
                if position == self.position:
                    return (self._epoch, position, 0, False), pack_events([])
            self._check()
        return self._answer_events(position)

    def _check(self) -> None:
        if self.failure:
            raise IdentityAway(reason=f"the feed of identity stands still: {self.failure}")

    async def _look(self) -> None:
        """That there is nothing new is said only of a database that was asked. Raises `IdentityAway`."""
        try:
            is_same = await self._state.database.read(read_generation) == self.generation
        except Exception as error:                       # the task of the feed meets it as well, and logs it
            self._fail(error)
            self._wake.set()
            raise IdentityAway(reason=f"the feed of identity stands still: {self.failure}") from error
        if is_same:
            return
        news, self._is_doubted = self._news, True
        self._wake.set()
        try:
            async with asyncio.timeout(FEED_WAIT_S):
                await news.wait()
        except TimeoutError as error:
            raise IdentityAway(reason="the feed of identity does not follow the changes of its database") from error

    def _answer_events(self, position: int) -> Answer:
        """What comes after `position`, as much as fits."""
        if position < self._oldest:                      # dropped while it waited
            return self._answer_snapshot("", 0, 0)
        chosen: list[bytes] = []
        size = 0
        for packed in list(self._events)[position - self._oldest:]:
            if chosen and size + len(packed) > _ANSWER_BYTES_MAX:
                break
            chosen.append(packed)
            size += len(packed)
        if size > _PART_BYTES_MAX:                       # one event of a whole import: in parts it fits into frames
            return self._answer_snapshot("", 0, 0, newer_than=position)
        head = bytes(msgpack.Packer().pack_array_header(len(chosen)))
        return (self._epoch, position + len(chosen), 0, False), head + b"".join(chosen)

    def _answer_snapshot(self, epoch: str, position: int, part: int, *, newer_than: int = -1) -> Answer:
        snapshot, now_s = self._snapshot, self._state.clock.monotonic_s()
        is_going_on = snapshot is not None and part and epoch == self._epoch and position == snapshot.position
        if snapshot is None or not is_going_on:
            part = 0
            is_old = (snapshot is None or now_s - snapshot.made_s > _SNAPSHOT_S or snapshot.position < self._oldest
                      or (len(snapshot.parts) == 1 and snapshot.position != self.position))
            if snapshot is None or is_old or snapshot.position <= newer_than:
                snapshot = self._snapshot = _Snapshot(self.position, now_s, list(self._parts()))
        part = min(part, len(snapshot.parts) - 1)
        return (self._epoch, snapshot.position, len(snapshot.parts) - 1 - part, True), snapshot.parts[part]

    def _parts(self) -> Iterator[bytes]:
        part: Change = {}
        size = 0
        for table, records in self._content.items():
            for key, record in records.items():
                part.setdefault(table, {})[key] = record
                size += len(key) + len(record) + 8
                if size > _PART_BYTES_MAX:
                    yield pack_events([(self.generation, part)])
                    part, size = {}, 0
        yield pack_events([(self.generation, part)])

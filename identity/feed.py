"""The feed: what the gateways have to know to judge tokens by themselves, and every change of it, as soon as it is committed.

After each move of the counter of authorization changes the tables are read in one transaction and compared with what was sent
before. So no use-case has to say what it changed, nothing is ever missed, and a change that another process made on the same
database is as good as one of our own. Protocol and records: identity/wire.py.

Budget of a pass over 10 000 users, 10 000 projects and as many grants: see docs/performance.md; in a thread of the database, with
`_REST` times its duration between two passes, so that a flood of changes costs the Identity API at most a quarter of its time.
"""
from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
from cryptography.fernet import Fernet
from sqlalchemy import Connection, Text, cast, select

from common.errors import StorageError
from common.log import get_logger
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
_log = get_logger("identity.feed")
Content = dict[str, dict[Id, bytes]]


class Reader:
    """Reads the tables as records. transport: seals secrets on their way."""

    def __init__(self, vault: KeySet, transport: Fernet) -> None:
        self._vault, self._transport = vault, transport
        self._keys: tuple[tuple[str, ...], bytes] = ((), b"")
        self._s3_keys: dict[str, tuple[str, bytes]] = {}         # id: (sealed for the database, sealed for the transport)
        self._revocations: dict[Id, bytes] = {}
        self._revocation_number = 0

    def read(self, connection: Connection, keys: tuple[str, ...], *, revoked_after_us: int) -> tuple[int, Content]:
        """(counter, all records). The counter first: on a database without snapshots what follows may be newer, never older."""
        generation = read_generation(connection)
        if revoked_after_us:
            self._revocations, self._revocation_number = {}, 0
        grants = _grants(connection)
        content: Content = {
            "key": {"": self._sealed_keys(keys)}, "role": dict(_roles(connection)), **_projects(connection),
            "user": dict(_users(connection, grants)),
            "group": {pack_id(one): pack_record(grants.get(("group", one), ()))
                      for one in connection.execute(select(group.c.id)).scalars()},
            "trust": dict(_trusts(connection)), "app_credential": dict(_app_credentials(connection)),
            "access_token": dict(_access_tokens(connection)), "s3_key": dict(self._s3(connection)),
            "revocation": self._revoked(connection, revoked_after_us)}
        assert content.keys() == set(TABLES)
        return generation, content

    def _sealed_keys(self, keys: tuple[str, ...]) -> bytes:
        """Sealed once: a seal is never the same twice, and would look like a change."""
        if self._keys[0] != keys:
            self._keys = keys, pack_record(self._transport.encrypt(msgpack.packb(keys)))
        return self._keys[1]

    def _s3(self, connection: Connection) -> Iterator[tuple[Id, bytes]]:
        rows = connection.execute(select(
            credential.c.id, credential.c.access_digest, credential.c.user_id, credential.c.project_id,
            credential.c.app_credential_id, credential.c.trust_id, credential.c.sealed)
            .where(credential.c.type == "ec2", credential.c.access_digest.is_not(None))).all()
        known, self._s3_keys = self._s3_keys, {}
        for row in rows:
            was = known.get(row.id)
            if was is None or was[0] != row.sealed:
                secret = json.loads(self._vault.open_text(row.sealed))["secret"]
                was = row.sealed, self._transport.encrypt(msgpack.packb(secret))
            self._s3_keys[row.id] = was
            whose = pack_id(row.user_id), pack_id(row.project_id or "")
            yield row.access_digest, pack_record(*whose, _or_nil(row.app_credential_id), _or_nil(row.trust_id), was[1])

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


def _roles(connection: Connection) -> Iterator[tuple[Id, bytes]]:
    graph = load_graph(connection)
    for one, name in graph.names.items():
        implied = sorted(graph.implied.get(one, ()))
        yield pack_id(one), pack_record(name, bool(graph.domains[one]), [pack_id(other) for other in implied])


def _projects(connection: Connection) -> Content:
    """Tables `domain` and `project`."""
    domains: dict[Id, bytes] = {}
    projects: dict[Id, bytes] = {}
    columns = project.c
    rows = connection.execute(select(columns.id, columns.options).where(cast(columns.options, Text).contains(CONFINED))).all()
    confined = {row.id for row in rows if row.options.get(CONFINED)}         # of most projects no options are parsed
    for row_id, name, domain_id, parent_id, is_domain, enabled in connection.execute(select(
            columns.id, columns.name, columns.domain_id, columns.parent_id, columns.is_domain, columns.enabled)).all():
        if is_domain:
            domains[pack_id(row_id)] = pack_record(enabled, name)
        else:
            parent = "" if parent_id in (None, domain_id) else parent_id
            projects[pack_id(row_id)] = pack_record(enabled, name, pack_id(domain_id), pack_id(parent), row_id in confined)
    return {"domain": domains, "project": projects}


def _grants(connection: Connection) -> dict[tuple[str, str], list[tuple[int, Id, Id]]]:
    """(kind, id) of an actor to its grants."""
    out: dict[tuple[str, str], list[tuple[int, Id, Id]]] = {}
    columns = assignment.c
    for kind, actor, target_kind, target, role_id, is_inherited in connection.execute(select(
            columns.actor_kind, columns.actor_id, columns.target_kind, columns.target_id, columns.role_id, columns.is_inherited)
            .order_by(columns.target_kind, columns.target_id, columns.role_id, columns.is_inherited)).all():
        out.setdefault((kind, actor), []).append((_GRANTS[target_kind, bool(is_inherited)],
                                                  "" if target == SYSTEM else pack_id(target), pack_id(role_id)))
    return out


def _users(connection: Connection, grants: dict[tuple[str, str], list[tuple[int, Id, Id]]]) -> Iterator[tuple[Id, bytes]]:
    groups: dict[str, list[Id]] = {}
    for user_id, group_id in connection.execute(select(membership.c.user_id, membership.c.group_id)
                                                .order_by(membership.c.user_id, membership.c.group_id)):
        groups.setdefault(user_id, []).append(pack_id(group_id))
    for row_id, enabled, name, domain_id, source_print in connection.execute(select(
            user.c.id, user.c.enabled, user.c.name, user.c.domain_id, user.c.source_print)).all():
        v1_name = v1_name_of(row_id, name) if source_print is not None else ""
        yield pack_id(row_id), pack_record(enabled, name, pack_id(domain_id), groups.get(row_id, ()), v1_name,
                                           grants.get(("user", row_id), ()))


def _trusts(connection: Connection) -> Iterator[tuple[Id, bytes]]:
    roles = _links(connection, select(trust_role.c.trust_id, trust_role.c.role_id))
    for row in connection.execute(select(trust).where(trust.c.deleted_us.is_(None))):
        people = pack_id(row.trustor_user_id), pack_id(row.trustee_user_id)
        yield pack_id(row.id), pack_record(*people, pack_id(row.project_id or ""), row.expires_us,
                                           _or_nil(row.redelegated_trust_id), roles.get(row.id, ()))


def _app_credentials(connection: Connection) -> Iterator[tuple[Id, bytes]]:
    roles = _links(connection, select(app_credential_role.c.app_credential_id, app_credential_role.c.role_id))
    rules: dict[str, list[tuple[str, str, str]]] = {}
    link = app_credential_access_rule
    for row in connection.execute(select(link.c.app_credential_id, access_rule).join(
            access_rule, access_rule.c.id == link.c.access_rule_id).order_by(access_rule.c.id)):
        rules.setdefault(row.app_credential_id, []).append((row.service, row.path, row.method))
    columns = app_credential.c
    for row in connection.execute(select(columns.id, columns.user_id, columns.project_id, columns.expires_us)):
        yield pack_id(row.id), pack_record(pack_id(row.user_id), pack_id(row.project_id), row.expires_us, roles.get(row.id, ()),
                                           rules.get(row.id))


def _access_tokens(connection: Connection) -> Iterator[tuple[Id, bytes]]:
    columns = access_token.c
    for row in connection.execute(select(columns.id, columns.user_id, columns.project_id, columns.expires_us, columns.role_ids)):
        yield pack_id(row.id), pack_record(pack_id(row.user_id), pack_id(row.project_id), row.expires_us,
                                           sorted(map(pack_id, row.role_ids["ids"]), key=repr))


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
        self._snapshot: _Snapshot | None = None
        self._forgot_s = 0.0
        self._wake, self._news = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the first content is there. Raises what the database raises."""
        self._state.on_change = self._wake.set
        await self.refresh()
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
            if self._state.generation == self.generation and self._state.keys.texts == self._keys:
                continue
            began_s = clock.monotonic_s()
            try:
                await self.refresh()
            except StorageError as error:
                _log.warning("gateways are not told of changes", error=error)
            except Exception as error:                   # the edge of a daemon: the next round tries again
                _log.error("gateways are not told of changes", exc=error)
            await asyncio.sleep(min(_REST * (clock.monotonic_s() - began_s), 0.5))

    async def refresh(self) -> None:
        """Read, compare, and let the gateways know. Raises what the database raises."""
        state, now_s, after_us = self._state, self._state.clock.monotonic_s(), 0
        if now_s - self._forgot_s > _FORGET_S or not self._forgot_s:
            self._forgot_s = now_s
            after_us = max(state.clock.now_us() - 2 * state.config.token_life_s * 1_000_000 - 60_000_000, 1)
        keys = state.keys.texts
        generation, content = await state.database.read(self._reader.read, keys, revoked_after_us=after_us)
        changes = compare(self._content, content)
        self._content, self._keys = content, keys
        if changes or generation != self.generation:
            self._append(generation, changes)

    @property
    def _oldest(self) -> int:
        """Whoever holds this position can be told of what came after it."""
        return self.position - len(self._events)

    def _append(self, generation: int, changes: Change) -> None:
        packed = pack_events([(generation, changes)])[1:]          # without the head of a list of one
        self._events.append(packed)
        self._events_bytes += len(packed)
        while len(self._events) > 1 and (len(self._events) > _EVENTS_MAX or self._events_bytes > _EVENTS_BYTES_MAX):
            self._events_bytes -= len(self._events.popleft())
        self.position += 1
        self.generation = generation
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def answer(self, call: Call) -> Answer:
        """One op FEED of a gateway."""
        epoch, position, part = call.fields
        if epoch != self._epoch or part or not self._oldest <= position <= self.position:
            return self._answer_snapshot(epoch, position, part)
        if position == self.position:
            try:
                async with asyncio.timeout(FEED_WAIT_S):
                    await self._news.wait()
            except TimeoutError:
                return (self._epoch, position, 0, False), pack_events([])
        return self._answer_events(position)

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

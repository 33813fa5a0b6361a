"""What a gateway knows of identity: the tables of the feed, as they came, and what follows from them for one token.

Records stay packed until a token needs them: 10 000 users, projects and grants are some 5 MB (docs/performance.md), and a record is
unpacked in half a microsecond. The rules are those of `identity/scopes.py` and `identity/effective.py`, over tables instead of
queries; tests/unit/proxy holds the two against each other.
"""
from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from common.clock import Clock
from common.errors import Unauthorized
from common.pathrule import path_pattern
from identity.wire import (
    GRANT_BELOW_DOMAIN,
    GRANT_BELOW_PROJECT,
    GRANT_DOMAIN,
    GRANT_PROJECT,
    GRANT_SYSTEM,
    TABLES,
    Change,
    Id,
    RoleGraph,
    TokenFacts,
    pack_id,
    unpack_id,
)

_DEPTH_MAX = 64                          # of project trees and chains of trusts; identity allows far less
_LONG_BYTES = 1_024                      # an actor with more grants is kept unpacked, its grants by target
_LONG_BYTES_KEPT_MAX = 2 << 20           # of such records, packed; unpacked they are four times that
_ROLES_KEPT_MAX = 1_000
_NOBODY: frozenset[str] = frozenset()
Tables = dict[str, dict[Id, bytes]]


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What an application credential is restricted to. rows: service, path, method."""

    rows: tuple[tuple[str, str, str], ...]

    def allow(self, method: str, path: str) -> bool:
        """Whether one of them is this request to the object store."""
        return any(service == "object-store" and wanted == method and path_pattern(pattern).fullmatch(path) is not None
                   for service, pattern, wanted in self.rows)


@dataclass(slots=True, kw_only=True)
class Meaning:
    """What a token stands for now. roles: names in lower case, implied ones included. expires_us: what ends first.

    v1_name: "account:user" of a user of the configuration, "" of any other.
    """

    user_id: str
    user_name: str
    user_domain: str
    v1_name: str
    scope_kind: str
    roles: frozenset[str]
    expires_us: int
    project_id: str = ""
    project_name: str = ""
    project_domain: str = ""
    is_confined: bool = False
    access_rules: AccessRules | None = None


class IdentityFacts:
    """One per worker; it outlives reloads of the configuration. version: moves with every change."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.tables: Tables = {table: {} for table in TABLES}
        self.generation = 0                              # of identity's counter; 0: nothing is known yet
        self.version = 0
        self.is_connected = False
        self.heard_s = clock.monotonic_s()
        self._enabled: set[Id] = set()                   # domains that were looked at since the last change
        self._graph: RoleGraph | None = None
        self._names: dict[frozenset[Id], frozenset[str]] = {}
        self._long: dict[tuple[str, Id], list[Any]] = {}
        self._long_bytes = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    # the feed

    def heard(self) -> None:
        """Identity has said that there is nothing newer than what is known."""
        self.is_connected = True
        self.heard_s = self._clock.monotonic_s()

    def lost(self) -> None:
        """Identity does not answer."""
        self.is_connected = False

    @property
    def silent_s(self) -> float:
        """For how long identity has not been heard."""
        return self._clock.monotonic_s() - self.heard_s

    def replace(self, generation: int, tables: Tables) -> None:
        """A whole snapshot in the place of what was known."""
        self.tables = {table: tables.get(table, {}) for table in TABLES}
        self._forget_long()
        self._graph = None
        self._moved(generation)

    def apply(self, generation: int, changes: Change) -> None:
        """What changed. Tables that this version does not know are for newer ones."""
        for table, records in changes.items():
            held = self.tables.get(table)
            if held is None:
                continue
            for key, record in records.items():
                if record is None:
                    held.pop(key, None)
                else:
                    held[key] = record
                if (table, key) in self._long:
                    self._forget_long()
            if table == "role":
                self._graph = None
        self._moved(generation, is_changed=bool(changes))

    def _moved(self, generation: int, *, is_changed: bool = True) -> None:
        self.generation = generation
        if is_changed:
            self.version += 1
            self._enabled.clear()
        if self._graph is None:
            self._names.clear()
        waiting, self._waiting = self._waiting, []
        for wanted, future in waiting:
            if wanted > generation:
                self._waiting.append((wanted, future))
            elif not future.done():
                future.set_result(None)

    async def reach(self, generation: int, *, timeout_s: float) -> None:
        """Returns once that generation is known, or the time is over."""
        if generation <= self.generation:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((generation, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting = [(wanted, other) for wanted, other in self._waiting if other is not future]

    # what follows for a token

    def find(self, table: str, key: Id) -> list[Any] | None:
        """A record, unpacked."""
        record = self.tables[table].get(key)
        return None if record is None else msgpack.unpackb(record)

    def is_revoked(self, token: TokenFacts) -> bool:
        """By what is known."""
        revoked = self.tables["revocation"]
        if not revoked:
            return False
        for kind, value in token.revocable_by():
            record = revoked.get(f"{kind} {value}")
            if record is not None and msgpack.unpackb(record)[0] > token.generation:
                return True
        return False

    def resolve(self, token: TokenFacts, now_us: int) -> Meaning:
        """Who and what the token stands for. Raises `Unauthorized` with the reason for `holdfast explain`."""
        user = self._enabled_user(token.user_id)
        kind, scope_id = token.scope_kind, token.scope_id
        facts: dict[str, Any] = {"expires_us": token.expires_us}
        project: list[Any] | None = None
        if kind == "project":
            project = self._enabled_project(scope_id)
            facts |= {"project_id": scope_id, "project_name": project[1], "project_domain": unpack_id(project[2]),
                      "is_confined": project[4]}
        elif kind == "domain":
            self._enabled_domain(pack_id(scope_id))
        if token.trust_id is not None:
            roles = self._of_trust(token, facts, now_us)
        elif token.app_credential_id is not None:
            roles = self._of_app_credential(token, project, facts, now_us)
        elif token.access_token_id is not None:
            roles = self._of_access_token(token, project, facts, now_us)
        elif kind:
            roles = self.names_of(self._role_ids(user, kind, scope_id, project))
        else:
            roles = _NOBODY
        if kind and not roles:
            raise Unauthorized().because("token.no_role", user=token.user_id, scope=f"{kind} {scope_id}")
        return Meaning(user_id=token.user_id, user_name=user[1], user_domain=unpack_id(user[2]), v1_name=user[4], scope_kind=kind,
                       roles=roles, **facts)

    def _enabled_user(self, user_id: str) -> list[Any]:
        user = self._find_actor("user", pack_id(user_id))
        if user is None or not user[0]:
            raise Unauthorized().because("token.user", user=user_id, is_there=user is not None)
        self._enabled_domain(user[2])
        return user

    def _enabled_project(self, project_id: str) -> list[Any]:
        project = self.find("project", pack_id(project_id))
        if project is None or not project[0]:
            raise Unauthorized().because("token.project", project=project_id, is_there=project is not None)
        self._enabled_domain(project[2])
        return project

    def _enabled_domain(self, domain_id: Id) -> None:
        if domain_id in self._enabled:
            return
        domain = self.find("domain", domain_id)
        if domain is None or not domain[0]:
            raise Unauthorized().because("token.domain", domain=unpack_id(domain_id), is_there=domain is not None)
        self._enabled.add(domain_id)

    # roles

    def names_of(self, role_ids: frozenset[Id]) -> frozenset[str]:
        """Of what counts in a token: these roles and all that they imply."""
        names = self._names.get(role_ids)
        if names is None:
            if len(self._names) >= _ROLES_KEPT_MAX:
                self._names.clear()
            names = self._names[role_ids] = frozenset(name.lower() for name in self.graph.effective(role_ids).values())
        return names

    @property
    def graph(self) -> RoleGraph:
        """Of all roles."""
        if self._graph is None:
            rows = {key: msgpack.unpackb(record) for key, record in self.tables["role"].items()}
            self._graph = RoleGraph(names={key: row[0] for key, row in rows.items()},
                                    domains={key: "x" if row[1] else "" for key, row in rows.items()},
                                    implied={key: frozenset(row[2]) for key, row in rows.items() if row[2]})
        return self._graph

    def _role_ids(self, user: list[Any], kind: str, scope_id: str, project: list[Any] | None) -> frozenset[Id]:
        """Roles that a user was given on a target, by whatever way, before implication."""
        if kind == "project":
            assert project is not None
            places = [(GRANT_PROJECT, pack_id(scope_id)), (GRANT_BELOW_DOMAIN, project[2])]
            places += [(GRANT_BELOW_PROJECT, one) for one in self._above(project)]
        else:
            places = [(GRANT_DOMAIN, pack_id(scope_id)) if kind == "domain" else (GRANT_SYSTEM, "")]
        found = _granted(user[5], places)
        for group_id in user[3]:
            group = self._find_actor("group", group_id)
            if group is not None:
                found += _granted(group[0], places)
        return frozenset(found)

    def _above(self, project: list[Any]) -> Iterable[Id]:
        parent = project[3]
        for _ in range(_DEPTH_MAX):
            if not parent:
                return
            yield parent
            above = self.find("project", parent)
            parent = above[3] if above is not None else ""

    def _find_actor(self, table: str, key: Id) -> list[Any] | None:
        """A user or a group; of one with many grants the last field is not a list but a map, (kind, target) to roles."""
        record = self.tables[table].get(key)
        if record is None or len(record) <= _LONG_BYTES:
            return None if record is None else msgpack.unpackb(record)
        actor = self._long.get((table, key))
        if actor is None:
            if self._long_bytes + len(record) > _LONG_BYTES_KEPT_MAX:
                self._forget_long()
            *fields, grants = msgpack.unpackb(record)
            by_target: dict[tuple[int, Id], list[Id]] = {}
            for kind, target, role_id in grants:
                by_target.setdefault((kind, target), []).append(role_id)
            actor = self._long[table, key] = [*fields, by_target]
            self._long_bytes += len(record)
        return actor

    def _forget_long(self) -> None:
        self._long.clear()
        self._long_bytes = 0

    def _have(self, user_id: Id, project_id: str, project: list[Any]) -> set[Id]:
        """Ids of all roles that a user has in a project, implied ones included."""
        user = self._find_actor("user", user_id)
        if user is None:
            return set()
        graph = self.graph
        return set(graph.effective(self._role_ids(user, "project", project_id, project)))

    # delegation

    def _of_trust(self, token: TokenFacts, facts: dict[str, Any], now_us: int) -> frozenset[str]:
        """The roles of the trust, all of which its trustor still has; both people have to be enabled."""
        assert token.trust_id is not None
        row = self._living_trust(token.trust_id, now_us)
        if row is None or unpack_id(row[2]) != token.scope_id:
            raise Unauthorized().because("token.trust", trust=token.trust_id)
        trustor, trustee, project_id, expires_us, _, role_ids = row
        other = trustee if pack_id(token.user_id) == trustor else trustor
        self._enabled_user(unpack_id(other))
        facts["expires_us"] = _sooner(facts["expires_us"], expires_us)
        project = self.find("project", project_id)
        if project is None or not set(role_ids) <= self._have(trustor, token.scope_id, project):
            return _NOBODY
        return self.names_of(frozenset(role_ids))

    def _living_trust(self, trust_id: str, now_us: int) -> list[Any] | None:
        """One that has not expired, and neither has one that it was passed on from."""
        row = first = self.find("trust", pack_id(trust_id))
        for _ in range(_DEPTH_MAX):
            if row is None or (row[3] is not None and row[3] <= now_us):
                return None
            if row[4] is None:
                return first
            row = self.find("trust", row[4])
        return None

    def _of_app_credential(self, token: TokenFacts, project: list[Any] | None, facts: dict[str, Any],
                           now_us: int) -> frozenset[str]:
        """The roles of the credential that its user still has in its project."""
        assert token.app_credential_id is not None
        row = self.find("app_credential", pack_id(token.app_credential_id))
        if row is None or project is None or not _is_of(row, token) or (row[2] is not None and row[2] <= now_us):
            raise Unauthorized().because("token.app_credential", app_credential=token.app_credential_id)
        facts["expires_us"] = _sooner(facts["expires_us"], row[2])
        if row[4] is not None:
            facts["access_rules"] = AccessRules(tuple((service, path, method) for service, path, method in row[4]))
        return self.names_of(frozenset(self._have(row[0], token.scope_id, project).intersection(row[3])))

    def _of_access_token(self, token: TokenFacts, project: list[Any] | None, facts: dict[str, Any], now_us: int) -> frozenset[str]:
        """The same for an OAuth access token."""
        assert token.access_token_id is not None
        row = self.find("access_token", pack_id(token.access_token_id))
        if row is None or project is None or not _is_of(row, token) or (row[2] is not None and row[2] <= now_us):
            raise Unauthorized().because("token.access_token")
        facts["expires_us"] = _sooner(facts["expires_us"], row[2])
        return self.names_of(frozenset(self._have(row[0], token.scope_id, project).intersection(row[3])))


def _granted(grants: Any, places: list[tuple[int, Id]]) -> list[Id]:
    if isinstance(grants, dict):
        return [role_id for place in places for role_id in grants.get(place, ())]
    return [role_id for kind, target, role_id in grants if (kind, target) in places]


def _is_of(row: list[Any], token: TokenFacts) -> bool:
    """Whether a credential belongs to the token's user and project."""
    return bool(row[0] == pack_id(token.user_id) and row[1] == pack_id(token.scope_id))


def _sooner(one_us: int, other_us: int | None) -> int:
    return one_us if other_us is None else min(one_us, other_us)


def merge_parts(parts: Iterable[Mapping[str, Mapping[Id, bytes | None]]]) -> Tables:
    """A snapshot from its parts."""
    tables: Tables = {}
    for part in parts:
        for table, records in part.items():
            tables.setdefault(table, {}).update({key: record for key, record in records.items() if record is not None})
    return tables

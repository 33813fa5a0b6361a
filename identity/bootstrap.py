"""What has to be there before anybody can log in: made at the first start, completed and brought up to date at every later one.

Roles, the default domain, an administrator, the catalog of this node, and one project per account of the configuration, so that
`AUTH_<account>` is the same account whichever way one logs in. Everything is found by ids and names that do not change between
starts; what an administrator changed through the API stays as it is, unless the configuration itself says something new.

What somebody made through the API under a name that the configuration wants is left as it is, too, and whatever it is in the way
of is left out and told of (`Collision`): a start never fails because of what users may name. The administrator is known by its id,
which a row among the counters keeps: the name admin makes nobody one, and the administrator stays one under another name.
"""
from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, Table, delete, insert, select, tuple_, update

from control.db import ensure_row
from identity.administrators import has_administrator
from identity.base import find_row, new_id
from identity.effective import SYSTEM, groups_of
from identity.model import (
    DEFAULT_DOMAIN,
    ROOT,
    assignment,
    counter,
    credential,
    endpoint,
    project,
    region,
    role,
    role_implies,
    service,
    user,
)
from identity.scopes import CONFINED
from identity.state import Identity, make_counter

ROLES = ("admin", "manager", "member", "reader", "service")
_IMPLIED = (("admin", "manager"), ("manager", "member"), ("member", "reader"))
ADMIN = "admin"
RESERVED = frozenset({"admin", "service"})       # names of ours, which no account takes
_MARK = "administrator:"                         # of a row among the counters, before the id of the user


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSeed:
    """A service of this node and its URL, in which %(project_id)s and %(host)s may stand."""

    type: str
    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSeed:
    """A user of the configuration. Exactly one of key and key_hash is not None; is_admin: of its account."""

    account: str
    name: str
    key: str | None
    key_hash: str | None
    is_admin: bool

    @property
    def id(self) -> str:
        """The same at every start."""
        return _user_id(self.account, self.name)

    @property
    def login(self) -> str:
        """As it is called in the default domain: "demo" for demo:demo, else "account:user"."""
        is_short = self.account == self.name and self.name not in RESERVED
        return self.name if is_short else f"{self.account}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """All that a start brings along. print_key: secret, for telling whether a password of the configuration is a new one."""

    admin_password: str
    print_key: bytes
    region: str = "RegionOne"
    catalog: tuple[CatalogSeed, ...] = ()
    users: tuple[UserSeed, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Collision:
    """Something of the API that is in the way of the configuration, in words. advice: what to do about it."""

    text: str
    advice: str


def _user_id(account: str, name: str) -> str:
    return hashlib.sha256(f"{account}\0{name}".encode()).hexdigest()[:32]


def v1_name_of(user_id: str, login: str) -> str:
    """The account:user that one of the configuration is for v1 auth; "" for one that only has such a name."""
    account, colon, name = login.rpartition(":")
    account = account if colon else name
    return f"{account}:{name}" if user_id == _user_id(account, name) else ""


def project_name(account: str) -> str:
    """The account's, unless that is a name of ours."""
    return f"{account} (account)" if account in RESERVED else account


def bootstrap(connection: Connection, state: Identity, seed: Seed) -> tuple[Collision, ...]:
    """One transaction; may be repeated."""
    make_counter(connection)
    state.change(connection)                 # first, so that nothing that is read here changes beside it
    _make_domains(connection)
    roles = _make_roles(connection)
    collisions = _make_admin(connection, state, seed, roles)
    _make_catalog(connection, seed)
    collisions += _make_accounts(connection, state, seed, roles)
    return tuple(collisions)


def _make_domains(connection: Connection) -> None:
    for row_id, name, domain_id, parent in ((ROOT, "<root>", ROOT, None), (DEFAULT_DOMAIN, "Default", ROOT, ROOT)):
        ensure_row(connection, project, {"id": row_id}, {
            "name": name, "domain_id": domain_id, "parent_id": parent, "is_domain": True, "enabled": True,
            "description": "The default domain" if row_id else None, "options": {}, "extra": {}})


def _make_roles(connection: Connection) -> dict[str, str]:
    """Name to id."""
    for name in ROLES:
        ensure_row(connection, role, {"name": name, "domain_id": ROOT}, {
            "id": new_id(), "description": None, "options": {"immutable": True} if name == ADMIN else {}, "extra": {}})
    ids = {row.name: row.id for row in connection.execute(select(role).where(role.c.domain_id == ROOT, role.c.name.in_(ROLES)))}
    for prior, implied in _IMPLIED:
        ensure_row(connection, role_implies, {"prior_id": ids[prior], "implied_id": ids[implied]})
    return ids


def _make_admin(connection: Connection, state: Identity, seed: Seed, roles: dict[str, str]) -> list[Collision]:
    """The administrator, with role admin on the project admin, the default domain and the system; at first it is called admin.

    From one that lost the role everywhere it stays away until there is a new password for it: who manages users without that role
    could have made this one theirs.
    """
    _make_project(connection, new_id(), ADMIN, "Administration", {})
    _make_project(connection, new_id(), "service", "Users that are services", {})
    project_id = connection.execute(select(project.c.id).where(project.c.domain_id == DEFAULT_DOMAIN,
                                                               project.c.name == ADMIN)).scalar_one()
    source = _print(seed, seed.admin_password)
    user_id = find_admin(connection) or _adopt_admin(connection, seed, source, roles[ADMIN]) or new_id()
    row = find_row(connection, user, user_id)
    if not _put_user(connection, state, user_id, ADMIN, project_id, source, password=seed.admin_password, key_hash=None):
        return [_find_other_admin(connection)]
    _mark_admin(connection, user_id)
    is_lost = row is not None and not _has_role(connection, user_id, roles[ADMIN])
    if is_lost and row is not None and row.source_print == source:
        return []
    if is_lost:
        connection.execute(delete(credential).where(credential.c.user_id == user_id))
        connection.execute(update(user).where(user.c.id == user_id).values(options={}))
    for kind, target in (("project", project_id), ("domain", DEFAULT_DOMAIN), ("system", SYSTEM)):
        _grant(connection, user_id, kind, target, roles[ADMIN])
    if row is not None and row.source_print != source and not has_administrator(connection):
        connection.execute(update(user).where(user.c.id == user_id).values(options={}))      # rules that nobody could meet
    return []


def find_admin(connection: Connection) -> str | None:
    """The id of the administrator that a start made; None if that is not known or it was deleted."""
    marks = connection.execute(select(counter.c.name).where(counter.c.name.startswith(_MARK, autoescape=True))).scalars()
    rows = [find_row(connection, user, mark.removeprefix(_MARK)) for mark in marks.all()]
    return next((str(row.id) for row in rows if row is not None), None)


def _mark_admin(connection: Connection, user_id: str) -> None:
    connection.execute(delete(counter).where(counter.c.name.startswith(_MARK, autoescape=True), counter.c.name != _MARK + user_id))
    ensure_row(connection, counter, {"name": _MARK + user_id}, {"value": 1})


def _adopt_admin(connection: Connection, seed: Seed, source: str, role_id: str) -> str | None:
    """The administrator that a version without the mark made: it came from a start and has the role admin on the system.

    By its name, or by its password if it was renamed.
    """
    has_role = select(assignment.c.actor_id).where(
        assignment.c.actor_kind == "user", assignment.c.target_kind == "system", assignment.c.target_id == SYSTEM,
        assignment.c.role_id == role_id)
    rows = connection.execute(select(user.c.id, user.c.name, user.c.source_print).where(
        user.c.domain_id == DEFAULT_DOMAIN, user.c.source_print.is_not(None), user.c.id.in_(has_role)).order_by(user.c.id)).all()
    configured = {one.id for one in seed.users}
    found = [row.id for row in rows if row.id not in configured and (row.name == ADMIN or row.source_print == source)]
    named = [row.id for row in rows if row.id in found and row.name == ADMIN]
    return named[0] if named else found[0] if len(found) == 1 else None


def _has_role(connection: Connection, user_id: str, role_id: str) -> bool:
    """Somewhere, by a group too."""
    actors = [("user", user_id), *(("group", one) for one in groups_of(connection, user_id))]
    return connection.execute(select(assignment.c.role_id).where(
        tuple_(assignment.c.actor_kind, assignment.c.actor_id).in_(actors), assignment.c.role_id == role_id)).first() is not None


def _find_other_admin(connection: Connection) -> Collision:
    other = _named(connection, user, ADMIN)
    return Collision(
        text=f"user {other} is called {ADMIN} and was not made by a start: it is given no role, and the password in "
             "secrets/admin.password is nobody's",
        advice="as another administrator, or a manager of the domain default, rename or delete that user "
               f"(openstack user set --name NEW {other}), then SIGHUP or restart the node: user {ADMIN} is made again")


def _make_project(connection: Connection, row_id: str, name: str, description: str, options: dict[str, object]) -> bool:
    """False if one of that id, or of that name in the default domain, is there. What an earlier one of that id gave is gone."""
    is_made = ensure_row(connection, project, {"id": row_id}, {
        "name": name, "domain_id": DEFAULT_DOMAIN, "parent_id": DEFAULT_DOMAIN, "is_domain": False, "enabled": True,
        "description": description, "options": options, "extra": {}})
    if is_made:
        connection.execute(delete(assignment).where(assignment.c.target_kind == "project", assignment.c.target_id == row_id))
    return is_made


def _put_user(connection: Connection, state: Identity, user_id: str, name: str, project_id: str, source: str, *,
              password: str | None, key_hash: str | None) -> bool:
    """Make it, or give it the new password if the source is not what it was. Hashing takes 50 ms, so only then.

    False if another user has that name.
    """
    row = find_row(connection, user, user_id)
    if row is not None and row.source_print == source:
        return True
    if row is None and _named(connection, user, name) is not None:
        return False
    hashed = key_hash if key_hash is not None else state.passwords.hash_here(password or "")
    now_us = state.clock.now_us()
    if row is None:
        connection.execute(delete(assignment).where(assignment.c.actor_kind == "user", assignment.c.actor_id == user_id))
        return ensure_row(connection, user, {"id": user_id}, {
            "domain_id": DEFAULT_DOMAIN, "name": name, "enabled": True, "description": None, "email": None, "extra": {},
            "options": {}, "default_project_id": project_id, "password_hash": hashed, "password_changed_us": now_us,
            "password_expires_us": None, "must_change_password": False, "failed_count": 0, "failed_us": None,
            "last_active_us": None, "created_us": now_us, "source_print": source})
    state.revoke(connection, "user", user_id)
    connection.execute(update(user).where(user.c.id == user_id).values(
        password_hash=hashed, password_changed_us=now_us, source_print=source, enabled=True, failed_count=0, failed_us=None))
    return True


def _named(connection: Connection, table: Table, name: str) -> str | None:
    """The id of what has that name in the default domain."""
    return connection.execute(select(table.c.id).where(table.c.domain_id == DEFAULT_DOMAIN, table.c.name == name)).scalar()


def _grant(connection: Connection, user_id: str, kind: str, target_id: str, role_id: str) -> None:
    ensure_row(connection, assignment, {"actor_kind": "user", "actor_id": user_id, "target_kind": kind, "target_id": target_id,
                                        "role_id": role_id, "is_inherited": False})


def _print(seed: Seed, secret: str) -> str:
    return hmac.digest(seed.print_key, b"identity source\0" + secret.encode(), "sha256").hex()


def _make_catalog(connection: Connection, seed: Seed) -> None:
    """Services by their type; endpoints by service, interface and region, whose URL follows the listeners of this node."""
    ensure_row(connection, region, {"id": seed.region}, {"description": "", "parent_region_id": None, "extra": {}})
    for one in seed.catalog:
        service_id = connection.execute(select(service.c.id).where(service.c.type == one.type).order_by(service.c.id)).scalar()
        if service_id is None:
            service_id = new_id()
            connection.execute(insert(service).values(id=service_id, type=one.type, name=one.name, enabled=True, description=None,
                                                      extra={}))
        for interface in ("public", "internal", "admin"):
            where = (endpoint.c.service_id == service_id, endpoint.c.interface == interface, endpoint.c.region_id == seed.region)
            if connection.execute(select(endpoint.c.id).where(*where)).first() is None:
                connection.execute(insert(endpoint).values(id=new_id(), service_id=service_id, region_id=seed.region,
                                                           interface=interface,
                                                           url=one.url, enabled=True, extra={"managed_by": "node"}))
            else:
                mine = [row.id for row in connection.execute(select(endpoint).where(*where))
                        if row.extra.get("managed_by") == "node"]
                connection.execute(update(endpoint).where(endpoint.c.id.in_(mine)).values(url=one.url))


def _make_accounts(connection: Connection, state: Identity, seed: Seed, roles: dict[str, str]) -> list[Collision]:
    """A project per account, confined: whoever administers an account administers nothing else."""
    found: list[Collision] = []
    foreign: set[str] = set()
    for account in dict.fromkeys(one.account for one in seed.users):
        if _make_account(connection, account):
            found += _find_namesake(connection, account)
        else:
            foreign.add(account)
            found.append(Collision(
                text=f"account {account} has no project: something that is none of an account has the id {account}",
                advice="its users log in by v1 only; give the account another name in [[auth.user]]"))
    for one in seed.users:
        if one.account in foreign:
            continue
        source = _print(seed, one.key if one.key is not None else one.key_hash or "")
        if _put_user(connection, state, one.id, one.login, one.account, source, password=one.key, key_hash=one.key_hash):
            _set_admin(connection, one, roles[ADMIN])
        else:
            found.append(Collision(
                text=f"user {one.account}:{one.name} of the configuration is not in the Identity API: user "
                     f"{_named(connection, user, one.login)} has the name {one.login} there",
                advice="it logs in by v1 only; rename or delete that user (openstack user set --name NEW ID), then SIGHUP or "
                       "restart the node"))
    _disable_removed(connection, state, {one.id for one in seed.users} | {find_admin(connection) or ""})
    return found


def _set_admin(connection: Connection, one: UserSeed, role_id: str) -> None:
    if one.is_admin:
        _grant(connection, one.id, "project", one.account, role_id)
        return
    connection.execute(delete(assignment).where(
        assignment.c.actor_kind == "user", assignment.c.actor_id == one.id, assignment.c.target_kind == "project",
        assignment.c.target_id == one.account, assignment.c.role_id == role_id))


def _make_account(connection: Connection, account: str) -> bool:
    """A project of that id; its name is a label, so another one does if that is taken. False if the id is something else's.

    A domain, or a project that somebody made: whoever administers the account would administer that, and not confined.
    """
    row = find_row(connection, project, account)
    if row is not None:
        return not row.is_domain and bool(row.options.get(CONFINED))
    names = (project_name(account), f"{account} (account)", f"{account} (account {new_id()[:8]})")
    return any(_make_project(connection, account, name, "Account of the configuration", {CONFINED: True}) for name in names)


def _find_namesake(connection: Connection, account: str) -> list[Collision]:
    """Another project that is called like the account: no ACL that names the account means it (proxy/identity_auth.py)."""
    other = _named(connection, project, account)
    if other in (None, account) or account in RESERVED:
        return []
    return [Collision(
        text=f"project {other} is called like the account {account} of the configuration, whose project has the id {account}",
        advice="by that name ACLs mean the account only, and logins the other project; rename one of them "
               "(openstack project set --name NEW ID)")]


def _disable_removed(connection: Connection, state: Identity, kept: Iterable[str]) -> None:
    """Users that came from the configuration and are not in it any more. They come back with it, with a password set anew."""
    rows = connection.execute(select(user.c.id).where(user.c.source_print.is_not(None), user.c.enabled.is_(True),
                                                      user.c.domain_id == DEFAULT_DOMAIN)).scalars().all()
    for user_id in set(rows) - set(kept):
        state.revoke(connection, "user", user_id)
        connection.execute(update(user).where(user.c.id == user_id).values(enabled=False, source_print="removed"))

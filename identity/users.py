"""/v3/users: users, their passwords, their groups and projects."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from common.errors import BadRequest, Conflict, NotFound, Unauthorized
from control.app import Call
from control.listing import Listing, link_map, list_rows
from control.routes import Route
from control.schema import BOOLEAN, ID_OR_NULL, TEXT, name_of, properties, wrapped
from control.times import parse_time
from identity.administrators import keep_an_administrator
from identity.base import (
    add_row,
    change_row,
    drop_row,
    find_row,
    free_attributes,
    get_allowed,
    merged_options,
    missing,
    new_id,
    rows_among,
    same_or_absent,
)
from identity.effective import groups_of, reachable
from identity.login import METHODS, refuse_plain, verify_password
from identity.model import DEFAULT_DOMAIN, assignment, group, membership, password_history, project, user
from identity.passwords import check_password
from identity.privilege import has_roles_elsewhere, is_privileged_actor
from identity.state import Identity
from identity.token_api import tags_of
from identity.views import show_group, show_project, show_user

DAY_US = 86_400_000_000
_KNOWN = ("name", "domain_id", "enabled", "description", "email", "default_project_id", "password", "options",
          "password_expires_at")
_OPTIONS = properties({
    "ignore_change_password_upon_first_use": {"type": ["boolean", "null"]}, "ignore_password_expiry": {"type": ["boolean", "null"]},
    "ignore_lockout_failure_attempts": {"type": ["boolean", "null"]}, "lock_password": {"type": ["boolean", "null"]},
    "ignore_user_inactivity": {"type": ["boolean", "null"]}, "multi_factor_auth_enabled": {"type": ["boolean", "null"]},
    "multi_factor_auth_rules": {"type": ["array", "null"], "maxItems": 16, "items": {
        "type": "array", "minItems": 1, "maxItems": 8, "items": {"type": "string", "enum": list(METHODS)}}}}, is_closed=True)
_FIELDS: Mapping[str, Any] = {
    "name": name_of(255), "domain_id": ID_OR_NULL, "enabled": BOOLEAN, "description": TEXT, "email": TEXT,
    "default_project_id": ID_OR_NULL, "password": {"type": ["string", "null"]}, "options": _OPTIONS}
_CREATE = wrapped("user", properties(_FIELDS, ("name",)))
_UPDATE = wrapped("user", properties(_FIELDS))
_PASSWORD = wrapped("user", properties({"password": {"type": "string"}, "original_password": {"type": "string"}},
                                       ("password", "original_password")))
LISTING = Listing(key=user.c.id, filters={"name": user.c.name, "domain_id": user.c.domain_id, "enabled": user.c.enabled},
                  booleans=frozenset({"enabled"}), sorts={"name": user.c.name, "id": user.c.id})


def target_of(connection: Connection, row: Row[Any] | None, *, now_us: int) -> dict[str, object]:
    """What rules may ask of a user: what it may do, with the roles of its groups, and of trusts that live at now_us."""
    if row is None:
        return {}
    actors = [("user", row.id), *(("group", one) for one in groups_of(connection, row.id))]
    return {"target.user.id": row.id, "target.user.domain_id": row.domain_id,
            "target.user.has_roles_elsewhere": has_roles_elsewhere(connection, actors, domain_id=row.domain_id, now_us=now_us),
            "target.user.is_privileged": is_privileged_actor(connection, actors, now_us=now_us)}


def _allowed(connection: Connection, call: Call) -> Row[Any]:
    return get_allowed(connection, call, user, call.params["user_id"], what="user",
                       target=lambda row: target_of(connection, row, now_us=call.state.clock.now_us()))


def home_domain(call: Call) -> str:
    """Where something is made when nobody says where: in the domain of the caller's scope."""
    context = call.context
    return context.domain_id or context.project_domain_id or DEFAULT_DOMAIN


def check_domain(connection: Connection, domain_id: str) -> None:
    """Raises `NotFound` if it is not there."""
    row = find_row(connection, project, domain_id)
    if row is None or not row.is_domain or not domain_id:
        raise missing("domain", domain_id)


async def create_user(call: Call) -> dict[str, Any]:
    """The right to do so is judged before anything is hashed."""
    given, state = dict(call.body["user"]), call.state
    domain_id = given.get("domain_id") or home_domain(call)
    call.enforce({"target.user.domain_id": domain_id, "target.user.is_privileged": False, "target.user.has_roles_elsewhere": False})
    hashed = None
    if given.get("password") is not None:
        password = check_password(given["password"], regex=state.config.password_regex)
        hashed = await state.passwords.hash(password, peer=call.peer)

    def create(connection: Connection, _: Call) -> Row[Any]:
        check_domain(connection, domain_id)
        _check_default_project(connection, given.get("default_project_id"))
        now_us = state.clock.now_us()
        row = add_row(
            connection, user, what="user", id=new_id(), domain_id=domain_id, name=given["name"], enabled=given.get("enabled", True),
            description=given.get("description"), email=given.get("email"), default_project_id=given.get("default_project_id"),
            password_hash=hashed, password_changed_us=now_us if hashed else None, must_change_password=False, created_us=now_us,
            password_expires_us=_expiry_us(state, given.get("options", {}), now_us) if hashed else None,
            options=merged_options({}, given.get("options")), extra=free_attributes(given, _KNOWN), failed_count=0, failed_us=None,
            last_active_us=None, source_print=None)
        _remember_password(connection, state, row.id, hashed)
        return row

    return {"user": show_user(call, await call.run(create))}


def _check_default_project(connection: Connection, project_id: str | None) -> None:
    if project_id is not None:
        row = find_row(connection, project, project_id)
        if row is not None and row.is_domain:
            raise BadRequest(reason="A domain cannot be a default project.")


def _expiry_us(state: Identity, options: Mapping[str, Any], now_us: int) -> int | None:
    days = state.config.password_days
    return now_us + days * DAY_US if days and not options.get("ignore_password_expiry") else None


def _remember_password(connection: Connection, state: Identity, user_id: str, hashed: str | None) -> None:
    """As many as a rule may ask about, no more."""
    if hashed is None or not state.config.password_history:
        return
    connection.execute(insert(password_history).values(id=new_id(), user_id=user_id, password_hash=hashed,
                                                       created_us=state.clock.now_us()))
    kept = select(password_history.c.id).where(password_history.c.user_id == user_id).order_by(
        password_history.c.created_us.desc()).limit(state.config.password_history)
    ids = list(connection.execute(kept).scalars())
    connection.execute(delete(password_history).where(password_history.c.user_id == user_id, password_history.c.id.not_in(ids)))


def list_users(connection: Connection, call: Call) -> dict[str, Any]:
    """Of the caller's domain, unless it may see all."""
    statement = select(user)
    if call.context.domain_id and not call.may(rule="rule_all_readers"):
        statement = statement.where(user.c.domain_id == call.context.domain_id)
        call.enforce({"target.domain_id": call.context.domain_id})
    else:
        call.enforce()
    for name, value in call.query:
        if name == "password_expires_at":
            statement = statement.where(_expiry_condition(value))
    rows, marker = list_rows(connection, statement, LISTING, call.query)
    return {"users": [show_user(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _expiry_condition(text: str) -> Any:
    operator, colon, when = text.partition(":")
    column, us = user.c.password_expires_us, parse_time(when if colon and operator in _OPERATORS else text, "password_expires_at")
    return _OPERATORS.get(operator if colon else "eq", _OPERATORS["eq"])(column, us)


_OPERATORS = {"lt": lambda c, v: c < v, "lte": lambda c, v: c <= v, "gt": lambda c, v: c > v, "gte": lambda c, v: c >= v,
              "eq": lambda c, v: c == v, "neq": lambda c, v: c != v}


def get_user(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"user": show_user(call, _allowed(connection, call))}


async def update_user(call: Call) -> dict[str, Any]:
    """A new password that an administrator sets is not held against the history. What makes a user weaker ends its tokens."""
    given, state = call.body["user"], call.state
    await call.read(lambda connection, _: _allowed(connection, call))
    hashed = None
    if given.get("password") is not None:
        password = check_password(given["password"], regex=state.config.password_regex)
        hashed = await state.passwords.hash(password, peer=call.peer)

    def change(connection: Connection, _: Call) -> Row[Any]:
        state.hold_changes(connection)
        row = _allowed(connection, call)
        same_or_absent(given, "domain_id", row.domain_id)
        same_or_absent(given, "id", row.id)
        if "default_project_id" in given:
            _check_default_project(connection, given["default_project_id"])
        values: dict[str, Any] = {name: given[name] for name in ("name", "enabled", "description", "email", "default_project_id")
                                  if name in given}
        options = merged_options(row.options, given.get("options"))
        if "options" in given:
            values["options"] = options
        if given.keys() - _KNOWN:
            values["extra"] = free_attributes(given, _KNOWN, row.extra)
        if "password" in given:
            now_us = state.clock.now_us()
            values |= {"password_hash": hashed, "password_changed_us": now_us, "failed_count": 0, "failed_us": None,
                       "password_expires_us": _expiry_us(state, options, now_us) if hashed else None}
            _remember_password(connection, state, row.id, hashed)
        if given.get("enabled") is True:                     # so an administrator unlocks whom wrong passwords have locked out
            values |= {"failed_count": 0, "failed_us": None}
        if "password" in given or given.get("enabled") is False:
            state.revoke(connection, "user", row.id)
        else:
            state.change(connection)
        is_risk = values.get("enabled") is False or ("password" in given and hashed is None) or "options" in given
        with keep_an_administrator(connection, is_risk=is_risk):
            return change_row(connection, user, row.id, values, what="user")

    return {"user": show_user(call, await call.run(change))}


def delete_user(connection: Connection, call: Call) -> None:
    """With assignments, credentials, trusts."""
    call.state.hold_changes(connection)
    row = _allowed(connection, call)
    with keep_an_administrator(connection):
        forget_user(connection, call.state, row.id)


def forget_user(connection: Connection, state: Identity, user_id: str) -> None:
    """What refers to it by no foreign key goes with it."""
    state.revoke(connection, "user", user_id)
    connection.execute(delete(assignment).where(assignment.c.actor_kind == "user", assignment.c.actor_id == user_id))
    drop_row(connection, user, user_id, what="user")


async def change_password(call: Call) -> None:
    """By the user: the old password is the proof, no token is needed, and an expired one can be changed."""
    refuse_plain(call)
    given, state = call.body["user"], call.state
    user_id = call.params["user_id"]
    row = await verify_password(call, user_id, given["original_password"])
    if not row.enabled:
        raise Unauthorized().because("login.disabled", user=user_id)
    if row.options.get("lock_password"):
        raise BadRequest(reason="The password of this user is locked and cannot be changed.")
    password = check_password(given["password"], regex=state.config.password_regex)
    if state.config.password_history:
        if password == given["original_password"]:
            raise BadRequest(reason="The new password must not be one of the last ones.").because("password.history")
        for old in await call.read(lambda connection, _: _last_hashes(connection, state, user_id)):
            if await state.passwords.is_right(password, old, peer=call.peer):
                raise BadRequest(reason="The new password must not be one of the last ones.").because("password.history")
    hashed = await state.passwords.hash(password, peer=call.peer)

    def change(connection: Connection, _: Call) -> None:
        state.hold_changes(connection)
        now_us = state.clock.now_us()
        changed = connection.execute(update(user).where(user.c.id == user_id, user.c.password_hash == row.password_hash).values(
            password_hash=hashed, password_changed_us=now_us, must_change_password=False,
            password_expires_us=_expiry_us(state, row.options, now_us)))
        if not changed.rowcount:
            raise Conflict(reason="The password was changed by somebody else at the same time.")
        _remember_password(connection, state, user_id, hashed)
        state.revoke(connection, "user", user_id)

    await call.run(change)


def _last_hashes(connection: Connection, state: Identity, user_id: str) -> list[str]:
    rows = select(password_history.c.password_hash).where(password_history.c.user_id == user_id).order_by(
        password_history.c.created_us.desc()).limit(state.config.password_history)
    return list(connection.execute(rows).scalars())


def list_user_groups(connection: Connection, call: Call) -> dict[str, Any]:
    """Groups of a user."""
    row = _allowed(connection, call)
    rows = connection.execute(select(group).join(membership, membership.c.group_id == group.c.id)
                              .where(membership.c.user_id == row.id).order_by(group.c.id)).all()
    names = {value for name, value in call.query if name == "name"}
    return {"groups": [show_group(call, one) for one in rows if not names or one.name in names],
            "links": link_map(call.url, call.query, None)}


def list_user_projects(connection: Connection, call: Call) -> dict[str, Any]:
    """Projects in which a user has a role."""
    row = find_row(connection, user, call.params["user_id"])
    call.enforce({"target.user.id": call.params["user_id"], **target_of(connection, row, now_us=call.state.clock.now_us())})
    if row is None:
        raise NotFound(what="user", name=call.params["user_id"])
    projects, _, _ = reachable(connection, row.id)
    rows = rows_among(connection, select(project).where(project.c.is_domain.is_(False)), project.c.id, projects)
    names = {value for name, value in call.query if name == "name"}
    rows = [one for one in rows if not names or one.name in names]
    tags = tags_of(connection, [one.id for one in rows])
    return {"projects": [show_project(call, one, tags.get(one.id, [])) for one in rows],
            "links": link_map(call.url, call.query, None)}


ROUTES = (
    Route("POST", "/v3/users", create_user, "identity:create_user", 201, _CREATE),
    Route("GET", "/v3/users", list_users, "identity:list_users"),
    Route("GET", "/v3/users/{user_id}", get_user, "identity:get_user"),
    Route("PATCH", "/v3/users/{user_id}", update_user, "identity:update_user", 200, _UPDATE),
    Route("DELETE", "/v3/users/{user_id}", delete_user, "identity:delete_user", 204),
    Route("POST", "/v3/users/{user_id}/password", change_password, None, 204, _PASSWORD, needs_token=False),
    Route("GET", "/v3/users/{user_id}/groups", list_user_groups, "identity:list_groups_for_user"),
    Route("GET", "/v3/users/{user_id}/projects", list_user_projects, "identity:list_user_projects"),
)

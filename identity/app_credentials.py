"""Application credentials: a name and a secret that may do part of what their user may, in one project, and no more than that."""
from __future__ import annotations

import re
import secrets
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from common.errors import BadRequest, Forbidden, Unauthorized
from control.app import Call
from control.listing import link_map
from control.routes import Route
from control.schema import ID, TEXT, name_of, properties, wrapped
from control.times import format_naive, parse_time
from identity.base import add_row, drop_row, find_row, missing, new_id, self_link
from identity.delegation import refuse_delegated
from identity.effective import effective_roles
from identity.model import (
    access_rule,
    app_credential,
    app_credential_access_rule,
    app_credential_role,
    role,
)
from identity.passwords import PASSWORD_CHARS_MAX
from identity.state import Identity

_RULES_MAX, _WILD_MAX = 64, 8
_RULE = properties({"id": ID, "service": name_of(255), "path": {"type": "string", "minLength": 1, "maxLength": 255,
                                                                "pattern": "^/"},
                    "method": {"type": "string", "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]}})
_CREATE = wrapped("application_credential", properties({
    "name": name_of(255), "description": TEXT, "secret": {"type": ["string", "null"], "maxLength": PASSWORD_CHARS_MAX},
    "expires_at": {"type": ["string", "null"]}, "unrestricted": {"type": ["boolean", "null"]},
    "roles": {"type": ["array", "null"], "maxItems": 100, "items": properties({"id": ID, "name": {"type": "string"}})},
    "access_rules": {"type": ["array", "null"], "maxItems": _RULES_MAX, "items": _RULE}}, ("name",)))


def show(connection: Connection, call: Call, row: Row[Any]) -> dict[str, Any]:
    """Without its secret."""
    roles = connection.execute(select(role).join(app_credential_role, app_credential_role.c.role_id == role.c.id)
                               .where(app_credential_role.c.app_credential_id == row.id).order_by(role.c.name)).all()
    rules = connection.execute(select(access_rule).join(
        app_credential_access_rule, app_credential_access_rule.c.access_rule_id == access_rule.c.id)
        .where(app_credential_access_rule.c.app_credential_id == row.id).order_by(access_rule.c.id)).all()
    shown = {"id": row.id, "name": row.name, "description": row.description, "project_id": row.project_id, "user_id": row.user_id,
             "expires_at": None if row.expires_us is None else format_naive(row.expires_us), "system": None,
             "unrestricted": row.unrestricted,
             "roles": [{"id": one.id, "name": one.name, "domain_id": one.domain_id or None} for one in roles],
             "links": self_link(call, "users", row.user_id, "application_credentials", row.id)}
    if rules:
        shown["access_rules"] = [_show_rule(one) for one in rules]
    return shown


def _show_rule(row: Row[Any]) -> dict[str, Any]:
    return {"id": row.id, "service": row.service, "path": row.path, "method": row.method}


async def create(call: Call) -> dict[str, Any]:
    """In the project of the token that asks. The secret is shown this once."""
    given, user_id, state = call.body["application_credential"], call.params["user_id"], call.state
    call.enforce({"target.user.id": user_id})
    _refuse_restricted(call)
    if call.context.project_id is None:
        raise BadRequest(reason="An application credential is made with a token for a project.")
    secret = given.get("secret") or secrets.token_urlsafe(64)
    hashed = await state.passwords.hash(secret, peer=call.peer)
    shown: dict[str, Any] = await call.run(lambda connection, _: _create(connection, call, hashed))
    return {"application_credential": {**shown, "secret": secret}}


def _refuse_restricted(call: Call) -> None:
    """Credentials that make credentials could never be taken back; nor do they see any. Raises `Forbidden`."""
    refuse_delegated(call)
    if call.context.app_credential_id is not None and not call.context.is_unrestricted:
        raise Forbidden(reason="A restricted application credential cannot manage application credentials.").because(
            "delegation.app_credential")


def _create(connection: Connection, call: Call, hashed: str) -> dict[str, Any]:
    given, user_id, project_id = call.body["application_credential"], call.params["user_id"], str(call.context.project_id)
    state: Identity = call.state
    have = effective_roles(connection, user_id, "project", project_id)
    parent = _lock_parent(connection, call)
    if parent is not None:                                   # an unrestricted one gives away what it has itself
        have = {one: name for one, name in have.items() if name.lower() in call.context.roles}
    wanted = {_role_id(connection, one, have) for one in given.get("roles") or []} or set(have)
    if not wanted or not wanted <= have.keys():
        raise BadRequest(reason="An application credential can have only roles that its user has in the project.").because(
            "delegation.roles")
    expires_us = parse_time(given["expires_at"], "expires_at") if given.get("expires_at") is not None else None
    if expires_us is not None and expires_us <= state.clock.now_us():
        raise BadRequest(reason="expires_at is not in the future.")
    if parent is not None and parent.expires_us is not None:
        if expires_us is not None and expires_us > parent.expires_us:
            raise BadRequest(reason="It cannot expire later than the application credential that it is made with.").because(
                "delegation.expiry")
        expires_us = expires_us or parent.expires_us
    row = add_row(connection, app_credential, what="application credential", id=new_id(), user_id=user_id, project_id=project_id,
                  name=given["name"], description=given.get("description"), secret_hash=hashed, expires_us=expires_us,
                  unrestricted=bool(given.get("unrestricted")), parent_id=None if parent is None else parent.id)
    connection.execute(insert(app_credential_role), [{"app_credential_id": row.id, "role_id": one} for one in sorted(wanted)])
    rules = [_rule_id(connection, user_id, one) for one in given.get("access_rules") or []]
    rules = rules if parent is None else _rules_within(connection, parent, rules)
    if rules:
        connection.execute(insert(app_credential_access_rule),
                           [{"app_credential_id": row.id, "access_rule_id": one} for one in dict.fromkeys(rules)])
    state.change(connection)                 # a gateway that knows of a token knows of what it was made with
    return show(connection, call, row)


def _lock_parent(connection: Connection, call: Call) -> Row[Any] | None:
    """The application credential whose token asks; it stays until the end of the transaction. Raises `Unauthorized`."""
    parent_id = call.context.app_credential_id
    if parent_id is None:
        return None
    row = connection.execute(select(app_credential).where(app_credential.c.id == parent_id).with_for_update()).first()
    if row is None:
        raise Unauthorized().because("token.app_credential", app_credential=parent_id)
    return row


def _rules_within(connection: Connection, parent: Row[Any], rules: list[str]) -> list[str]:
    """The access rules of what is made with `parent`: all of its own, or those that were asked for. Raises `BadRequest`."""
    link = app_credential_access_rule
    held = list(connection.execute(select(link.c.access_rule_id).where(link.c.app_credential_id == parent.id)).scalars())
    if held and not set(rules) <= set(held):
        raise BadRequest(reason="It can have only access rules of the application credential that it is made with.").because(
            "delegation.access_rules")
    return rules or held


def _role_id(connection: Connection, given: dict[str, Any], have: dict[str, str]) -> str:
    if "id" in given:
        return str(given["id"])
    found = [one for one, name in have.items() if name == given.get("name")]
    if not found:
        raise BadRequest(reason="An application credential can have only roles that its user has in the project.")
    return found[0]


def _rule_id(connection: Connection, user_id: str, given: dict[str, Any]) -> str:
    """Of a rule that is there already, by id or by content, or of a new one."""
    if "id" in given:
        row = find_row(connection, access_rule, given["id"])
        if row is None or row.user_id != user_id:
            raise missing("access rule", given["id"])
        return str(row.id)
    if any(name not in given for name in ("service", "path", "method")):
        raise BadRequest(reason="An access rule has service, path and method.")
    check_pattern(given["path"])
    there = connection.execute(select(access_rule.c.id).where(
        access_rule.c.user_id == user_id, access_rule.c.service == given["service"], access_rule.c.path == given["path"],
        access_rule.c.method == given["method"])).scalar()
    if there is not None:
        return str(there)
    return str(add_row(connection, access_rule, what="access rule", id=new_id(), user_id=user_id, service=given["service"],
                       path=given["path"], method=given["method"]).id)


def check_pattern(path: str) -> None:
    """One wildcard per segment, ** at most once: matching stays linear. Raises `BadRequest`."""
    segments = path.split("/")
    wild = [len(re.findall(r"\*+|\{", segment)) for segment in segments]
    if max(wild) > 1 or sum(wild) > _WILD_MAX or path.count("**") > 1 or "***" in path:
        raise BadRequest(reason="A path has at most one wildcard per segment, and ** at most once.")


def list_all(connection: Connection, call: Call) -> dict[str, Any]:
    """Of a user."""
    call.enforce({"target.user.id": call.params["user_id"]})
    _refuse_restricted(call)
    statement = select(app_credential).where(app_credential.c.user_id == call.params["user_id"]).order_by(app_credential.c.id)
    for name, value in call.query:
        if name == "name":
            statement = statement.where(app_credential.c.name == value)
    rows = connection.execute(statement).all()
    return {"application_credentials": [show(connection, call, row) for row in rows], "links": link_map(call.url, call.query, None)}


def _own(connection: Connection, call: Call) -> Row[Any]:
    call.enforce({"target.user.id": call.params["user_id"]})
    _refuse_restricted(call)
    row = find_row(connection, app_credential, call.params["application_credential_id"])
    if row is None or row.user_id != call.params["user_id"]:
        raise missing("application credential", call.params["application_credential_id"])
    return row


def get(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"application_credential": show(connection, call, _own(connection, call))}


def remove(connection: Connection, call: Call) -> None:
    """Its tokens end at once, and all that was made with them."""
    row = _own(connection, call)
    ending = [row.id]
    while ending:
        one = ending.pop()
        call.state.revoke(connection, "app_credential", one)
        drop_row(connection, app_credential, one, what="application credential")
        # only now: whoever makes one with a token of this one holds its row until that is there to be found
        ending += connection.execute(select(app_credential.c.id).where(app_credential.c.parent_id == one)).scalars().all()


# access rules

def list_rules(connection: Connection, call: Call) -> dict[str, Any]:
    """Of a user."""
    call.enforce({"target.user.id": call.params["user_id"]})
    _refuse_restricted(call)
    statement = select(access_rule).where(access_rule.c.user_id == call.params["user_id"]).order_by(access_rule.c.id)
    for name, value in call.query:
        if name in ("service", "path", "method"):
            statement = statement.where(access_rule.c[name] == value)
    rows = connection.execute(statement).all()
    return {"access_rules": [{**_show_rule(row), "links": self_link(call, "users", row.user_id, "access_rules", row.id)}
                             for row in rows], "links": link_map(call.url, call.query, None)}


def _own_rule(connection: Connection, call: Call) -> Row[Any]:
    call.enforce({"target.user.id": call.params["user_id"]})
    _refuse_restricted(call)
    row = find_row(connection, access_rule, call.params["access_rule_id"])
    if row is None or row.user_id != call.params["user_id"]:
        raise missing("access rule", call.params["access_rule_id"])
    return row


def get_rule(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    row = _own_rule(connection, call)
    return {"access_rule": {**_show_rule(row), "links": self_link(call, "users", row.user_id, "access_rules", row.id)}}


def delete_rule(connection: Connection, call: Call) -> None:
    """Not while a credential is bound by it: it would be bound no more."""
    row = _own_rule(connection, call)
    link = app_credential_access_rule
    used = connection.execute(select(link).where(link.c.access_rule_id == row.id)).first()
    if used is not None:
        raise Forbidden(reason="The access rule is in use by an application credential.")
    connection.execute(delete(access_rule).where(access_rule.c.id == row.id))


_BASE, _RULES = "/v3/users/{user_id}/application_credentials", "/v3/users/{user_id}/access_rules"
ROUTES = (
    Route("POST", _BASE, create, "identity:create_application_credential", 201, _CREATE),
    Route("GET", _BASE, list_all, "identity:list_application_credentials"),
    Route("GET", _BASE + "/{application_credential_id}", get, "identity:get_application_credential"),
    Route("DELETE", _BASE + "/{application_credential_id}", remove, "identity:delete_application_credential", 204),
    Route("GET", _RULES, list_rules, "identity:list_access_rules"),
    Route("GET", _RULES + "/{access_rule_id}", get_rule, "identity:get_access_rule"),
    Route("DELETE", _RULES + "/{access_rule_id}", delete_rule, "identity:delete_access_rule", 204),
)

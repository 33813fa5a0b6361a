"""OS-TRUST: a user lets another one act in a project with some of the own roles, for a time or a number of uses, until taken back.

A trust can be passed on as often as it says. Only the trustor makes it, with a login of the own, or somebody who was trusted and
passes it on with the token of that trust.
"""
from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update

from common.errors import BadRequest, Forbidden
from control.app import Call
from control.listing import link_map
from control.routes import Answer, Route
from control.schema import BOOLEAN, ID, ID_OR_NULL, properties, wrapped
from control.times import format_optional, parse_time
from identity.base import add_row, find_row, get_row, missing, new_id, self_link
from identity.delegation import refuse_handed_out
from identity.effective import effective_roles
from identity.model import project, role, trust, trust_role, user
from identity.scopes import living_trust
from identity.state import Identity

_REDELEGATIONS_MAX = 3
_CREATE = wrapped("trust", properties({
    "trustor_user_id": ID, "trustee_user_id": ID, "project_id": ID_OR_NULL, "impersonation": BOOLEAN,
    "expires_at": {"type": ["string", "null"]}, "remaining_uses": {"type": ["integer", "null"], "minimum": 1, "maximum": 1 << 31},
    "allow_redelegation": {"type": ["boolean", "null"]}, "redelegation_count": {"type": ["integer", "null"], "minimum": 0},
    "roles": {"type": "array", "maxItems": 100, "items": properties({"id": ID, "name": {"type": "string"}})}},
    ("trustor_user_id", "trustee_user_id", "impersonation")))


def show(connection: Connection, call: Call, row: Row[Any], *, with_roles: bool = True) -> dict[str, Any]:
    """A list shows no roles."""
    shown = {"id": row.id, "trustor_user_id": row.trustor_user_id, "trustee_user_id": row.trustee_user_id,
             "project_id": row.project_id, "impersonation": row.impersonation,
             "expires_at": format_optional(row.expires_us), "remaining_uses": row.remaining_uses,
             "redelegation_count": row.redelegation_count, "deleted_at": format_optional(row.deleted_us),
             "redelegated_trust_id": row.redelegated_trust_id, "links": self_link(call, "OS-TRUST", "trusts", row.id)}
    if with_roles:
        shown["roles"] = [_mention(call, one) for one in _roles(connection, row.id)]
        shown["roles_links"] = {"self": f"{call.base}/v3/OS-TRUST/trusts/{row.id}/roles", "next": None, "previous": None}
    return shown


def _mention(call: Call, row: Row[Any]) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "domain_id": row.domain_id or None, "links": self_link(call, "roles", row.id)}


def _roles(connection: Connection, trust_id: str) -> list[Row[Any]]:
    return list(connection.execute(select(role).join(trust_role, trust_role.c.role_id == role.c.id)
                                   .where(trust_role.c.trust_id == trust_id).order_by(role.c.id)).all())


def create(connection: Connection, call: Call) -> dict[str, Any]:
    """Roles that the trustor has, no more."""
    given, state = call.body["trust"], call.state
    call.enforce({"target.trust.trustor_user_id": given["trustor_user_id"]})
    if call.context.app_credential_id or getattr(call.context.token, "access_token_id", None):
        raise Forbidden(reason="A token of an application credential or an access token cannot create trusts.").because(
            "delegation.app_credential")
    if find_row(connection, user, given["trustee_user_id"]) is None:
        raise missing("user", given["trustee_user_id"])
    if given.get("roles") and given.get("project_id") is None:
        raise BadRequest(reason="Roles are given in a project: the trust needs a project_id.")
    if given.get("project_id") is not None:
        get_row(connection, project, given["project_id"], what="project")
    parent = _parent(connection, call, given)
    wanted = _wanted_roles(connection, given, parent)
    expires_us = parse_time(given["expires_at"], "expires_at") if given.get("expires_at") is not None else None
    if expires_us is not None and expires_us <= state.clock.now_us():
        raise BadRequest(reason="expires_at is not in the future.")
    if parent is not None and parent.expires_us is not None:
        if expires_us is not None and expires_us > parent.expires_us:
            raise Forbidden(reason="A trust that is passed on does not live longer than the one it comes from.")
        expires_us = expires_us or parent.expires_us
    row = add_row(
        connection, trust, what="trust", id=new_id(), trustor_user_id=given["trustor_user_id"],
        trustee_user_id=given["trustee_user_id"], project_id=given.get("project_id"), impersonation=given["impersonation"],
        expires_us=expires_us, remaining_uses=given.get("remaining_uses"), redelegation_count=_count(given, parent),
        redelegated_trust_id=parent.id if parent is not None else None, deleted_us=None)
    if wanted:
        connection.execute(insert(trust_role), [{"trust_id": row.id, "role_id": one} for one in sorted(wanted)])
    state.change(connection)                 # a gateway that knows of a token knows of what it was made with
    return {"trust": show(connection, call, row)}


def _parent(connection: Connection, call: Call, given: dict[str, Any]) -> Row[Any] | None:
    """The trust that is passed on, if the token is one of a trust. Raises `Forbidden`."""
    if call.context.trust_id is None:
        return None
    row = living_trust(connection, call.state, call.context.trust_id)
    if row is None or not row.redelegation_count:
        raise Forbidden(reason="This trust cannot be passed on.").because("delegation.trust")
    if row.impersonation is False and given["impersonation"]:
        raise Forbidden(reason="A trust without impersonation cannot be passed on as one with it.")
    if given.get("project_id") != row.project_id:
        raise Forbidden(reason="A trust is passed on in its own project.")
    if given.get("remaining_uses") is not None or row.remaining_uses is not None:
        raise Forbidden(reason="A trust that counts its uses cannot be passed on.")
    return row


def _count(given: dict[str, Any], parent: Row[Any] | None) -> int:
    """How often the new trust can be passed on. Raises `Forbidden`."""
    most = parent.redelegation_count - 1 if parent is not None else _REDELEGATIONS_MAX
    if not given.get("allow_redelegation") and not given.get("redelegation_count"):
        return 0
    asked = given.get("redelegation_count")
    if asked is not None and asked > most:
        raise Forbidden(reason=f"A trust can be passed on {most} times at most.")
    return int(most if asked is None else asked)


def _wanted_roles(connection: Connection, given: dict[str, Any], parent: Row[Any] | None) -> set[str]:
    """Ids. Raises `Forbidden` for a role that the trustor, or the trust that is passed on, has not."""
    project_id = given.get("project_id")
    have = effective_roles(connection, given["trustor_user_id"], "project", project_id) if project_id is not None else {}
    if parent is not None:
        of_parent = {one.id for one in _roles(connection, parent.id)}
        have = {one: name for one, name in have.items() if one in of_parent}
    names = {name: one for one, name in have.items()}
    wanted = set()
    for one in given.get("roles") or []:
        role_id = one.get("id") or names.get(one.get("name", ""))
        if role_id is None or role_id not in have:
            raise Forbidden(reason="A role can be given away only by somebody who has it.").because("delegation.roles")
        wanted.add(role_id)
    if project_id is not None and not wanted:
        raise Forbidden(reason="A trust in a project needs a role.")
    return wanted


def list_all(connection: Connection, call: Call) -> dict[str, Any]:
    """All for an administrator; else those that one has given or got."""
    given = {name: value for name, value in call.query if name in ("trustor_user_id", "trustee_user_id")}
    me = call.context.user_id
    if not given:
        call.enforce()
    elif not call.may(rule="rule_all_readers") and me not in given.values():
        call.enforce({"target.trust.trustor_user_id": given.get("trustor_user_id"),
                      "target.trust.trustee_user_id": given.get("trustee_user_id")}, rule="identity:list_trusts_for_trustor")
    refuse_handed_out(call)
    statement = select(trust).where(trust.c.deleted_us.is_(None)).order_by(trust.c.id)
    for name, value in given.items():
        statement = statement.where(trust.c[name] == value)
    now_us = call.state.clock.now_us()
    rows = connection.execute(statement.where(or_(trust.c.expires_us.is_(None), trust.c.expires_us > now_us))).all()
    return {"trusts": [show(connection, call, row, with_roles=False) for row in rows],
            "links": link_map(call.url, call.query, None)}


def _allowed(connection: Connection, call: Call) -> Row[Any]:
    row = find_row(connection, trust, call.params["trust_id"])
    call.enforce({"target.trust.trustor_user_id": row.trustor_user_id, "target.trust.trustee_user_id": row.trustee_user_id}
                 if row is not None else None)
    refuse_handed_out(call)
    if row is None or row.deleted_us is not None or living_trust(connection, call.state, row.id) is None:
        raise missing("trust", call.params["trust_id"])
    return row


def get(connection: Connection, call: Call) -> dict[str, Any]:
    """For both of its people."""
    return {"trust": show(connection, call, _allowed(connection, call))}


def remove(connection: Connection, call: Call) -> None:
    """With all that came from it."""
    row = _allowed(connection, call)
    state: Identity = call.state
    level = [row.id]
    while level:
        for trust_id in level:
            state.revoke(connection, "trust", trust_id)
        connection.execute(update(trust).where(trust.c.id.in_(level)).values(deleted_us=state.clock.now_us()))
        level = list(connection.execute(select(trust.c.id).where(trust.c.redelegated_trust_id.in_(level))).scalars())


def list_roles(connection: Connection, call: Call) -> dict[str, Any]:
    """Of a trust."""
    row = _allowed(connection, call)
    return {"roles": [_mention(call, one) for one in _roles(connection, row.id)], "links": link_map(call.url, call.query, None)}


def _role(connection: Connection, call: Call) -> Row[Any]:
    row = _allowed(connection, call)
    found = [one for one in _roles(connection, row.id) if one.id == call.params["role_id"]]
    if not found:
        raise missing("role", call.params["role_id"])
    return found[0]


def get_role(connection: Connection, call: Call) -> dict[str, Any]:
    """One of them."""
    return {"role": _mention(call, _role(connection, call))}


def check_role(connection: Connection, call: Call) -> Answer:
    """200 or 404."""
    _role(connection, call)
    return Answer(status=200)


_BASE = "/v3/OS-TRUST/trusts"
ROUTES = (
    Route("POST", _BASE, create, "identity:create_trust", 201, _CREATE),
    Route("GET", _BASE, list_all, "identity:list_trusts"),
    Route("GET", _BASE + "/{trust_id}", get, "identity:get_trust"),
    Route("DELETE", _BASE + "/{trust_id}", remove, "identity:delete_trust", 204),
    Route("GET", _BASE + "/{trust_id}/roles", list_roles, "identity:list_roles_for_trust"),
    Route("GET", _BASE + "/{trust_id}/roles/{role_id}", get_role, "identity:get_role_for_trust"),
    Route("HEAD", _BASE + "/{trust_id}/roles/{role_id}", check_role, "identity:get_role_for_trust"),
)

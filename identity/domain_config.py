"""/v3/domains/{domain_id}/config: options of a domain's identity back end, kept for tools that set them.

They are stored, sealed and shown; this version authenticates against its own tables whatever they say.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, select, update

from common.errors import BadRequest, Forbidden
from control.app import Call
from control.db import ensure_row
from control.routes import Answer, Route
from control.schema import wrapped
from identity.base import missing
from identity.model import domain_option
from identity.users import check_domain

_HIDDEN = frozenset({("ldap", "password")})
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "identity": {"driver": "sql", "list_limit": None},
    "ldap": {"url": "ldap://localhost", "user": None, "suffix": "cn=example,cn=com", "query_scope": "one", "page_size": 0,
             "alias_dereferencing": "default", "use_tls": False, "tls_cacertfile": None, "tls_req_cert": "demand",
             "user_tree_dn": None, "user_filter": None, "user_objectclass": "inetOrgPerson", "user_id_attribute": "cn",
             "user_name_attribute": "sn", "user_mail_attribute": "mail", "user_pass_attribute": "userPassword",
             "user_enabled_attribute": "enabled", "group_tree_dn": None, "group_filter": None, "group_objectclass": "groupOfNames",
             "group_id_attribute": "cn", "group_name_attribute": "ou", "group_member_attribute": "member"},
}
_SETTABLE = {**_DEFAULTS, "ldap": {**_DEFAULTS["ldap"], "password": None}}
_BODY = wrapped("config", {"type": "object", "minProperties": 1})
Config = dict[str, dict[str, Any]]


def _checked(config: Mapping[str, Any]) -> Config:
    """Known sections with known options. Raises `Forbidden`, `BadRequest`."""
    for section, options in config.items():
        if section not in _SETTABLE:
            raise Forbidden(reason=f"Section {section[:64]!r} is not one that a domain can have.")
        if not isinstance(options, Mapping) or not options:
            raise BadRequest(reason=f"Section {section!r} is a mapping of options to values.")
        for name in options:
            if name not in _SETTABLE[section]:
                raise Forbidden(reason=f"Option {name[:64]!r} is not one of section {section!r}.")
    return {section: dict(options) for section, options in config.items()}


def _load(connection: Connection, call: Call, *, with_hidden: bool = False) -> Config:
    out: Config = {}
    rows = connection.execute(select(domain_option).where(domain_option.c.domain_id == call.params["domain_id"])
                              .order_by(domain_option.c.section, domain_option.c.name))
    for row in rows:
        if with_hidden or (row.section, row.name) not in _HIDDEN:
            out.setdefault(row.section, {})[row.name] = json.loads(call.state.vault.open_text(row.sealed))
    return out


def _store(connection: Connection, call: Call, config: Config) -> None:
    for section, options in config.items():
        for name, value in options.items():
            keys: dict[str, object] = {"domain_id": call.params["domain_id"], "section": section, "name": name}
            sealed = call.state.vault.seal_text(json.dumps(value))
            if not ensure_row(connection, domain_option, keys, {"sealed": sealed}):
                connection.execute(update(domain_option).where(*(domain_option.c[key] == one for key, one in keys.items()))
                                   .values(sealed=sealed))


def _part(call: Call, config: Config) -> dict[str, Any]:
    """What the path asks for: all, a section, an option. Raises `NotFound`."""
    section, name = call.params.get("group"), call.params.get("option")
    if section is None:
        if not config:
            raise missing("domain configuration", call.params["domain_id"])
        return {"config": config}
    if section not in config or (name is not None and name not in config[section]):
        raise missing("domain configuration", f"{section} {name or ''}".strip())
    return {"config": {section: config[section]} if name is None else {name: config[section][name]}}


def create(connection: Connection, call: Call) -> Answer:
    """Instead of what is there; 201 if nothing was."""
    call.enforce()
    check_domain(connection, call.params["domain_id"])
    config = _checked(call.body["config"])
    gone = connection.execute(delete(domain_option).where(domain_option.c.domain_id == call.params["domain_id"]))
    _store(connection, call, config)
    return Answer(body={"config": _load(connection, call)}, status=200 if gone.rowcount else 201)


def get(connection: Connection, call: Call) -> dict[str, Any]:
    """All, a section or an option."""
    call.enforce()
    check_domain(connection, call.params["domain_id"])
    return _part(call, _load(connection, call))


def change(connection: Connection, call: Call) -> dict[str, Any]:
    """What is sent, in the part that the path names; that has to be there, unless all is meant."""
    call.enforce()
    check_domain(connection, call.params["domain_id"])
    section, name, given = call.params.get("group"), call.params.get("option"), dict(call.body["config"])
    if section is not None and name is not None and given.keys() == {name}:
        given = {section: given}
    if section is not None and (given.keys() != {section} or (name is not None and set(given[section]) != {name})):
        raise BadRequest(reason="The body names the same section and option as the path.")
    have = _load(connection, call, with_hidden=True)
    if section is not None and (section not in have or (name is not None and name not in have[section])):
        raise missing("domain configuration", f"{section} {name or ''}".strip())
    _store(connection, call, _checked(given))
    return {"config": _load(connection, call)}


def remove(connection: Connection, call: Call) -> None:
    """All, a section or an option. Raises `NotFound`."""
    call.enforce()
    check_domain(connection, call.params["domain_id"])
    statement = delete(domain_option).where(domain_option.c.domain_id == call.params["domain_id"])
    for column, name in (("section", "group"), ("name", "option")):
        if name in call.params:
            statement = statement.where(domain_option.c[column] == call.params[name])
    if not connection.execute(statement).rowcount:
        raise missing("domain configuration", " ".join(call.params.values()))


def defaults(connection: Connection, call: Call) -> dict[str, Any]:
    """What holds where nothing is set."""
    call.enforce()
    return _part(call, {section: dict(options) for section, options in _DEFAULTS.items()})


_BASE = "/v3/domains/{domain_id}/config"
ROUTES = (
    Route("PUT", _BASE, create, "identity:create_domain_config", 201, _BODY),
    *(Route(verb, _BASE + tail, handler, f"identity:{action}_domain_config", ok, body)
      for tail in ("", "/{group}", "/{group}/{option}")
      for verb, handler, action, ok, body in (("GET", get, "get", 200, None), ("PATCH", change, "update", 200, _BODY),
                                              ("DELETE", remove, "delete", 204, None))),
    *(Route("GET", "/v3/domains/config" + tail + "/default", defaults, "identity:get_domain_config_default")
      for tail in ("", "/{group}", "/{group}/{option}")),
)

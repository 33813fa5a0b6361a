"""/v3/credentials and EC2 keys: secrets of users, sealed at rest. An S3 key is an EC2 credential of a user in a project.

An EC2 credential is found by the digest of its access key. One that was made with a token of an application credential stays under
that: what is made from it later means no more than that token did.
"""
from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from common.errors import BadRequest, Forbidden
from control.app import Call
from control.listing import Listing, link_map, list_rows
from control.routes import Route
from control.schema import ID, ID_OR_NULL, BodySchema, parse_json, properties, wrapped
from identity.administrators import keep_an_administrator
from identity.base import (
    add_row,
    change_row,
    drop_row,
    find_row,
    free_attributes,
    get_row,
    missing,
    new_id,
    same_or_absent,
    self_link,
)
from identity.delegation import refuse_delegated
from identity.effective import effective_roles
from identity.model import credential, project, user
from identity.state import Identity
from identity.totp import seed_bytes
from identity.users import target_of as target_of_user

_BLOB_CHARS_MAX = 16_384
_ORIGINS = frozenset({"trust_id", "app_cred_id", "app_credential_id", "application_credential_id", "access_token_id"})
_FIELDS: dict[str, Any] = {"user_id": ID, "project_id": ID_OR_NULL, "type": {"type": "string", "minLength": 1, "maxLength": 255},
                           "blob": {"type": ["string", "object"], "maxLength": _BLOB_CHARS_MAX}}
_CREATE, _UPDATE = wrapped("credential", properties(_FIELDS, ("type", "blob"))), wrapped("credential", properties(_FIELDS))
LISTING = Listing(key=credential.c.id, filters={"user_id": credential.c.user_id, "type": credential.c.type,
                                                "project_id": credential.c.project_id})


def access_digest(access: str) -> str:
    """By which the credential of an access key is found; its id at first as well."""
    return hashlib.sha256(access.encode()).hexdigest()


def show_credential(call: Call, row: Row[Any]) -> dict[str, Any]:
    """With its secret: only owner and administrator get to see it."""
    return {**row.extra, "id": row.id, "user_id": row.user_id, "project_id": row.project_id, "type": row.type,
            "blob": call.state.vault.open_text(row.sealed), "links": self_link(call, "credentials", row.id)}


def _target(row: Row[Any] | None) -> dict[str, object]:
    return {} if row is None else {"target.credential.user_id": row.user_id}


def create_credential(connection: Connection, call: Call) -> dict[str, Any]:
    """For oneself, or by an administrator for others."""
    call.state.hold_changes(connection)
    given = call.body["credential"]
    user_id = given.get("user_id") or call.context.user_id
    call.enforce({"target.credential.user_id": user_id})
    if find_row(connection, user, user_id) is None:
        raise BadRequest(reason="There is no such user.")
    _refuse_forged(given)
    blob = given["blob"] if isinstance(given["blob"], str) else json.dumps(given["blob"])
    digest, project_id = None, given.get("project_id")
    if given["type"] == "ec2":
        blob, digest = _checked_ec2(blob)
        if project_id is None:
            raise BadRequest(reason="An ec2 credential needs a project_id.")
    _refuse_beyond(call, given["type"], project_id)
    if project_id is not None and not call.may(rule="admin_required"):
        _refuse_without_role(connection, user_id, project_id)
    _check_project(connection, project_id)
    if given["type"] == "totp":
        _check_seed(blob)
    row = _add(connection, call, digest=digest, user_id=user_id, project_id=project_id, kind=given["type"], blob=blob,
               extra=free_attributes(given, _FIELDS))
    call.state.change(connection)
    return {"credential": show_credential(call, row)}


def _refuse_forged(given: Mapping[str, Any]) -> None:
    """What a credential was made with is known from the token, not from what a client says. Raises `BadRequest`."""
    forged = sorted(_ORIGINS & given.keys())
    if forged:
        raise BadRequest(reason=f"{forged[0]} is not an attribute that a client can set.")


def _check_project(connection: Connection, project_id: str | None) -> None:
    """Raises `BadRequest`."""
    row = find_row(connection, project, project_id)
    if project_id is not None and (row is None or row.is_domain):
        raise BadRequest(reason="There is no such project.")


def _add(connection: Connection, call: Call, *, digest: str | None, user_id: str, project_id: str | None, kind: str, blob: str,
         extra: dict[str, Any]) -> Row[Any]:
    return add_row(connection, credential, what="credential", id=digest or new_id(), access_digest=digest, user_id=user_id,
                   project_id=project_id, type=kind,
                   sealed=call.state.vault.seal_text(blob), app_credential_id=call.context.app_credential_id,
                   trust_id=call.context.trust_id, extra=extra)


def _checked_ec2(blob: str) -> tuple[str, str]:
    """(blob, digest of the access key). What no body could hold is refused: the gateways get it. Raises `BadRequest`."""
    fields = parse_json(blob.encode(), what="The blob of an ec2 credential")
    try:
        access, secret = fields["access"], fields["secret"]
    except (KeyError, TypeError) as error:
        raise BadRequest(reason='The blob of an ec2 credential is JSON: {"access": ..., "secret": ...}.') from error
    if not isinstance(access, str) or not isinstance(secret, str) or not access or not secret:
        raise BadRequest(reason="access and secret are strings that are not empty.")
    return json.dumps({"access": access, "secret": secret}), access_digest(access)


def _refuse_without_role(connection: Connection, user_id: str, project_id: str) -> None:
    """Raises `Forbidden`, for a project that is not there as well."""
    if not effective_roles(connection, user_id, "project", project_id):
        raise Forbidden(reason="The user has no role in this project.").because("ec2.no_role", user=user_id, project=project_id)


def _check_seed(blob: str) -> None:
    """Raises `BadRequest`."""
    if seed_bytes(blob) is None:
        raise BadRequest(reason="The blob of a totp credential is a seed in base32, and not empty.")


def _refuse_beyond(call: Call, kind: str, project_id: str | None) -> None:
    """A restricted token makes only keys that stay under it: any other secret of the user would be worth more than the token."""
    refuse_delegated(call)
    if call.context.app_credential_id and (kind != "ec2" or project_id != call.context.project_id):
        raise Forbidden(reason="This token can make ec2 credentials for its own project only.").because("delegation.project")


def _is_beyond(call: Call, row: Row[Any]) -> bool:
    """Whether a restricted token must not see this secret."""
    return call.context.app_credential_id is not None and row.app_credential_id != call.context.app_credential_id


def list_credentials(connection: Connection, call: Call) -> dict[str, Any]:
    """One's own; an administrator sees all."""
    refuse_delegated(call)
    statement = select(credential)
    if call.context.app_credential_id is not None:
        statement = statement.where(credential.c.app_credential_id == call.context.app_credential_id)
    if not call.may(rule="admin_required"):          # a reader of the system reads no secrets, here as in GET of one
        call.enforce({"target.credential.user_id": call.context.user_id})
        statement = statement.where(credential.c.user_id == call.context.user_id)
    rows, marker = list_rows(connection, statement, LISTING, call.query)
    return {"credentials": [show_credential(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _allowed(connection: Connection, call: Call) -> Row[Any]:
    row = find_row(connection, credential, call.params["credential_id"])
    call.enforce(_target(row))
    refuse_delegated(call)
    if row is None or _is_beyond(call, row):
        raise missing("credential", call.params["credential_id"])
    return row


def get_credential(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"credential": show_credential(call, _allowed(connection, call))}


def update_credential(connection: Connection, call: Call) -> dict[str, Any]:
    """The secret and what was added freely. Whose it is, for which project and of which type stays: that would be another one."""
    call.state.hold_changes(connection)
    row, given = _allowed(connection, call), call.body["credential"]
    for name in ("user_id", "project_id", "type"):
        same_or_absent(given, name, getattr(row, name))
    _refuse_forged(given)
    values: dict[str, Any] = {"extra": free_attributes(given, _FIELDS, row.extra)} if given.keys() - _FIELDS.keys() else {}
    if "blob" in given:
        blob = given["blob"] if isinstance(given["blob"], str) else json.dumps(given["blob"])
        if row.type == "ec2":
            blob, values["access_digest"] = _checked_ec2(blob)
        if row.type == "totp":
            _check_seed(blob)
        values["sealed"] = call.state.vault.seal_text(blob)
    call.state.change(connection)
    return {"credential": show_credential(call, change_row(connection, credential, row.id, values, what="credential"))}


def delete_credential(connection: Connection, call: Call) -> None:
    """At once. The seed without which the last administrator could not log in stays."""
    row = _allowed(connection, call)
    call.state.change(connection)
    with keep_an_administrator(connection, is_risk=row.type == "totp"):
        drop_row(connection, credential, row.id, what="credential")


# EC2

def show_ec2(call: Call, row: Row[Any]) -> dict[str, Any]:
    """As EC2 clients know it. One that earlier versions let in and that signs nothing shows empty words."""
    access, secret = open_key(call.state, row) or ("", "")
    return {"access": access, "secret": secret, "user_id": row.user_id, "tenant_id": row.project_id,
            "trust_id": row.trust_id, "app_cred_id": row.app_credential_id,
            "links": self_link(call, "users", row.user_id, "credentials", "OS-EC2", access)}


def create_ec2(connection: Connection, call: Call) -> dict[str, Any]:
    """A user may have keys only where it has a role."""
    call.state.hold_changes(connection)
    user_id, project_id = call.params["user_id"], call.body["tenant_id"]
    owner = find_row(connection, user, user_id)
    call.enforce({"target.credential.user_id": user_id, **target_of_user(connection, owner, now_us=call.state.clock.now_us())})
    if owner is None:
        raise missing("user", user_id)
    row = find_row(connection, project, project_id)
    if row is None or row.is_domain:
        raise missing("project", project_id)
    _refuse_beyond(call, "ec2", project_id)
    _refuse_without_role(connection, user_id, project_id)
    access, secret = secrets.token_hex(16), secrets.token_hex(16)
    made = _add(connection, call, digest=access_digest(access), user_id=user_id, project_id=project_id, kind="ec2",
                blob=json.dumps({"access": access, "secret": secret}), extra={})
    call.state.change(connection)
    return {"credential": show_ec2(call, made)}


def find_ec2(connection: Connection, access: str) -> Row[Any] | None:
    """The credential of an access key."""
    return connection.execute(select(credential).where(credential.c.access_digest == access_digest(access),
                                                       credential.c.type == "ec2")).first()


def open_key(state: Identity, row: Row[Any]) -> tuple[str, str] | None:
    """(access, secret) of a stored key. None if it is none that could sign: earlier versions took what was no text."""
    try:
        fields = parse_json(state.vault.open_text(row.sealed).encode())
        access, secret = fields["access"], fields["secret"]
    except (BadRequest, KeyError, TypeError):
        return None
    return (access, secret) if isinstance(access, str) and isinstance(secret, str) else None


def list_ec2(connection: Connection, call: Call) -> dict[str, Any]:
    """Of a user."""
    user_id = call.params["user_id"]
    call.enforce({"target.credential.user_id": user_id})
    refuse_delegated(call)
    get_row(connection, user, user_id, what="user")
    rows = connection.execute(select(credential).where(credential.c.user_id == user_id, credential.c.type == "ec2")
                              .order_by(credential.c.id)).all()
    return {"credentials": [show_ec2(call, row) for row in rows if not _is_beyond(call, row)],
            "links": link_map(call.url, call.query, None)}


def _allowed_ec2(connection: Connection, call: Call) -> Row[Any]:
    row = find_ec2(connection, call.params["access"])
    row = row if row is not None and row.user_id == call.params["user_id"] else None
    call.enforce({"target.credential.user_id": call.params["user_id"]})
    refuse_delegated(call)
    if row is None or _is_beyond(call, row):
        raise missing("credential", call.params["access"])
    return row


def get_ec2(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"credential": show_ec2(call, _allowed_ec2(connection, call))}


def delete_ec2(connection: Connection, call: Call) -> None:
    """At once."""
    row = _allowed_ec2(connection, call)
    state: Identity = call.state
    state.change(connection)
    drop_row(connection, credential, row.id, what="credential")


_EC2 = "/v3/users/{user_id}/credentials/OS-EC2"
_MAKE_EC2 = BodySchema(properties({"tenant_id": ID}, ("tenant_id",)))
ROUTES = (
    Route("POST", "/v3/credentials", create_credential, "identity:create_credential", 201, _CREATE),
    Route("GET", "/v3/credentials", list_credentials, "identity:list_credentials"),
    Route("GET", "/v3/credentials/{credential_id}", get_credential, "identity:get_credential"),
    Route("PATCH", "/v3/credentials/{credential_id}", update_credential, "identity:update_credential", 200, _UPDATE),
    Route("DELETE", "/v3/credentials/{credential_id}", delete_credential, "identity:delete_credential", 204),
    Route("POST", _EC2, create_ec2, "identity:ec2_create_credential", 201, _MAKE_EC2),
    Route("GET", _EC2, list_ec2, "identity:ec2_list_credentials"),
    Route("GET", _EC2 + "/{access}", get_ec2, "identity:ec2_get_credential"),
    Route("DELETE", _EC2 + "/{access}", delete_ec2, "identity:ec2_delete_credential", 204),
)

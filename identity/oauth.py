"""OS-OAUTH1: consumers, and the three steps of OAuth 1.0a (RFC 5849, HMAC-SHA1) by which one comes to act for a user.

A consumer asks for a request token, the user authorizes it with some of the own roles, the consumer exchanges it for an access
token, and logs in with that. Secrets are sealed; a nonce works once.
"""
from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from sqlalchemy import Connection, Row, delete, select, update

from common.errors import BadRequest, Forbidden, NotFound, Unauthorized
from control.app import Call
from control.db import ensure_row
from control.listing import link_map
from control.routes import Answer, Route
from control.schema import ID, STRING, TEXT, properties, wrapped
from control.times import format_optional
from identity.base import add_row, change_row, drop_row, find_row, free_attributes, get_row, new_id, self_link
from identity.delegation import refuse_handed_out
from identity.effective import effective_roles
from identity.model import access_token, consumer, oauth_nonce, request_token, role
from identity.state import Identity

_REQUEST_LIFE_S, _ACCESS_LIFE_S, _SKEW_S = 28_800, 86_400, 300
_PAIR = re.compile(r'\s*([A-Za-z0-9_%.~-]+)="([^"]*)"\s*')
_CONSUMER = wrapped("consumer", properties({"description": TEXT}))
_AUTHORIZE = wrapped("roles", {"type": "array", "minItems": 1, "maxItems": 100, "items": properties({"id": ID, "name": STRING})})


# consumers

def show_consumer(call: Call, row: Row[Any]) -> dict[str, Any]:
    """Without its secret."""
    return {**row.extra, "id": row.id, "description": row.description, "links": self_link(call, "OS-OAUTH1", "consumers", row.id)}


def create_consumer(connection: Connection, call: Call) -> dict[str, Any]:
    """The secret is shown this once."""
    call.enforce()
    given, secret = call.body["consumer"], secrets.token_hex(32)
    row = add_row(connection, consumer, what="consumer", id=new_id(), description=given.get("description"),
                  sealed=call.state.vault.seal_text(secret), extra=free_attributes(given, ("description", "secret")))
    return {"consumer": {**show_consumer(call, row), "secret": secret}}


def list_consumers(connection: Connection, call: Call) -> dict[str, Any]:
    """All of them."""
    call.enforce()
    rows = connection.execute(select(consumer).order_by(consumer.c.id)).all()
    return {"consumers": [show_consumer(call, row) for row in rows], "links": link_map(call.url, call.query, None)}


def get_consumer(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    call.enforce()
    return {"consumer": show_consumer(call, get_row(connection, consumer, call.params["consumer_id"], what="consumer"))}


def update_consumer(connection: Connection, call: Call) -> dict[str, Any]:
    """Description and free attributes; the secret stays."""
    call.enforce()
    given = call.body["consumer"]
    if "secret" in given:
        raise BadRequest(reason="The secret of a consumer cannot be changed.")
    row = get_row(connection, consumer, call.params["consumer_id"], what="consumer")
    values: dict[str, Any] = {"extra": free_attributes(given, ("description",), row.extra)}
    if "description" in given:
        values["description"] = given["description"]
    return {"consumer": show_consumer(call, change_row(connection, consumer, row.id, values, what="consumer"))}


def delete_consumer(connection: Connection, call: Call) -> None:
    """Its tokens end with it."""
    call.enforce()
    state: Identity = call.state
    for row in connection.execute(select(access_token.c.id).where(access_token.c.consumer_id == call.params["consumer_id"])):
        state.revoke(connection, "access_token", row.id)
    drop_row(connection, consumer, call.params["consumer_id"], what="consumer")


# the three steps

async def create_request_token(call: Call) -> Answer:
    """Signed by the consumer; the project is named in a header."""
    given = _parse_header(call)
    project_id = call.headers.get("Requested-Project-Id", "")
    if not project_id.isascii() or len(project_id) > 255:
        raise BadRequest(reason="Requested-Project-Id is no id of a project.")
    await call.run(lambda connection, _: _check_signature(connection, call, given, token_secret=""))
    token_id, secret = new_id(), secrets.token_hex(32)
    state: Identity = call.state
    await call.run(lambda connection, _: add_row(
        connection, request_token, what="request token", id=token_id, sealed=state.vault.seal_text(secret),
        consumer_id=given["oauth_consumer_key"], project_id=project_id, verifier=None, user_id=None, role_ids={"ids": []},
        expires_us=state.clock.now_us() + _REQUEST_LIFE_S * 1_000_000))
    body = urlencode({"oauth_token": token_id, "oauth_token_secret": secret, "oauth_callback_confirmed": "true"})
    return Answer(body=body, headers={"Content-Type": "application/x-www-form-urlencoded"})


def authorize(connection: Connection, call: Call) -> dict[str, Any]:
    """The user gives the consumer some of the own roles in the project that it asked for. Raises `NotFound`, `Forbidden`."""
    call.enforce()
    state: Identity = call.state
    if call.context.trust_id or call.context.app_credential_id or getattr(call.context.token, "access_token_id", None):
        raise Forbidden(reason="Delegated tokens cannot authorize a consumer.")
    row = get_row(connection, request_token, call.params["token_id"], what="request token")
    if row.expires_us <= state.clock.now_us() or row.user_id is not None:
        raise _was_authorized()
    have = effective_roles(connection, call.context.user_id, "project", row.project_id)
    wanted = {_role_id(connection, given) for given in call.body["roles"]}
    if not wanted <= have.keys():
        raise Forbidden(reason="A role can be given away only by somebody who has it.").because("delegation.roles")
    verifier = "".join(secrets.choice("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789") for _ in range(16))
    taken = connection.execute(update(request_token).where(request_token.c.id == row.id, request_token.c.user_id.is_(None))
                               .values(verifier=verifier, user_id=call.context.user_id, role_ids={"ids": sorted(wanted)}))
    if not taken.rowcount:                   # somebody else authorized it since it was read
        raise _was_authorized()
    return {"token": {"oauth_verifier": verifier}}


def _was_authorized() -> Forbidden:
    return Forbidden(reason="The request token is expired or was authorized before.")


async def create_access_token(call: Call) -> Answer:
    """Signed with the secrets of consumer and request token, with the verifier."""
    given = _parse_header(call)
    token_id, secret = new_id(), secrets.token_hex(32)

    def make(connection: Connection, _: Call) -> None:
        state: Identity = call.state
        row = find_row(connection, request_token, given.get("oauth_token"))
        if row is None or row.user_id is None or row.expires_us <= state.clock.now_us() \
                or not hmac.compare_digest(str(row.verifier), given.get("oauth_verifier", "")):
            raise Unauthorized().because("oauth.request_token", is_there=row is not None)
        _check_signature(connection, call, given, token_secret=state.vault.open_text(row.sealed))
        if row.consumer_id != given["oauth_consumer_key"]:
            raise Unauthorized().because("oauth.consumer")
        connection.execute(delete(request_token).where(request_token.c.id == row.id))
        add_row(connection, access_token, what="access token", id=token_id, sealed=state.vault.seal_text(secret),
                consumer_id=row.consumer_id, user_id=row.user_id, project_id=row.project_id, role_ids=row.role_ids,
                expires_us=state.clock.now_us() + _ACCESS_LIFE_S * 1_000_000)
        state.change(connection)             # a gateway that knows of a token knows of what it was made with

    await call.run(make)
    return Answer(body=urlencode({"oauth_token": token_id, "oauth_token_secret": secret}),
                  headers={"Content-Type": "application/x-www-form-urlencoded"})


async def check_access_signature(call: Call) -> Row[Any]:
    """For a login by access token: its row. Raises `Unauthorized`."""
    given = _parse_header(call)

    def check(connection: Connection, _: Call) -> Row[Any]:
        state: Identity = call.state
        row = find_row(connection, access_token, given.get("oauth_token"))
        if row is None or (row.expires_us is not None and row.expires_us <= state.clock.now_us()):
            raise Unauthorized().because("oauth.access_token", is_there=row is not None)
        if row.consumer_id != given.get("oauth_consumer_key"):
            raise Unauthorized().because("oauth.consumer")
        _check_signature(connection, call, given, token_secret=state.vault.open_text(row.sealed))
        return row

    found: Row[Any] = await call.run(check)
    return found


# access tokens, as their user sees them

def show_access_token(call: Call, row: Row[Any]) -> dict[str, Any]:
    """Without its secret."""
    path = "users", row.user_id, "OS-OAUTH1", "access_tokens", row.id
    return {"id": row.id, "consumer_id": row.consumer_id, "project_id": row.project_id, "authorizing_user_id": row.user_id,
            "expires_at": format_optional(row.expires_us), "links": {**self_link(call, *path),
                                                                     "roles": self_link(call, *path, "roles")["self"]}}


def list_access_tokens(connection: Connection, call: Call) -> dict[str, Any]:
    """Of a user."""
    call.enforce({"target.user.id": call.params["user_id"]})
    refuse_handed_out(call)
    rows = connection.execute(select(access_token).where(access_token.c.user_id == call.params["user_id"])).all()
    return {"access_tokens": [show_access_token(call, row) for row in rows], "links": link_map(call.url, call.query, None)}


def _own_access_token(connection: Connection, call: Call) -> Row[Any]:
    call.enforce({"target.user.id": call.params["user_id"]})
    refuse_handed_out(call)
    row = get_row(connection, access_token, call.params["access_token_id"], what="access token")
    if row.user_id != call.params["user_id"]:
        raise NotFound(what="access token", name=row.id)
    return row


def get_access_token(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"access_token": show_access_token(call, _own_access_token(connection, call))}


def delete_access_token(connection: Connection, call: Call) -> None:
    """What was made from it ends at once."""
    row = _own_access_token(connection, call)
    call.state.revoke(connection, "access_token", row.id)
    drop_row(connection, access_token, row.id, what="access token")


def list_access_token_roles(connection: Connection, call: Call) -> dict[str, Any]:
    """What the consumer may be."""
    row = _own_access_token(connection, call)
    found = connection.execute(select(role).where(role.c.id.in_(row.role_ids["ids"]))).all()
    return {"roles": [{"id": one.id, "name": one.name} for one in found], "links": link_map(call.url, call.query, None)}


def get_access_token_role(connection: Connection, call: Call) -> dict[str, Any]:
    """One of them."""
    row = _own_access_token(connection, call)
    if call.params["role_id"] not in row.role_ids["ids"]:
        raise NotFound(what="role", name=call.params["role_id"])
    found = get_row(connection, role, call.params["role_id"], what="role")
    return {"role": {"id": found.id, "name": found.name}}


def _role_id(connection: Connection, given: Mapping[str, Any]) -> str:
    if "id" in given:
        return str(given["id"])
    found = connection.execute(select(role.c.id).where(role.c.name == given.get("name", ""), role.c.domain_id == "")).scalar()
    if found is None:
        raise NotFound(what="role", name=given.get("name"))
    return str(found)


# signatures

def _parse_header(call: Call) -> dict[str, str]:
    """The oauth_ parameters of the Authorization header. Raises `Unauthorized`."""
    scheme, _, text = call.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "oauth" or len(text) > 8_192:
        raise Unauthorized().because("oauth.header")
    if not text.isascii() or "%00" in text:                  # what is no text of a database cannot name anything
        raise Unauthorized().because("oauth.header")
    pairs = (_PAIR.fullmatch(part) for part in text.split(","))
    return {unquote(found[1]): unquote(found[2]) for found in pairs if found is not None}


def _check_signature(connection: Connection, call: Call, given: Mapping[str, str], *, token_secret: str) -> None:
    """Raises `Unauthorized`. The nonce is used up in this transaction."""
    state: Identity = call.state
    now_us = state.clock.now_us()
    row = find_row(connection, consumer, given.get("oauth_consumer_key"))
    stamp = given.get("oauth_timestamp", "")
    if row is None or given.get("oauth_signature_method") != "HMAC-SHA1" or not stamp.isdigit() or len(stamp) > 12:
        raise Unauthorized().because("oauth.consumer", is_there=row is not None)
    if abs(int(stamp) - now_us // 1_000_000) > _SKEW_S:
        raise Unauthorized().because("oauth.clock", seconds=int(stamp) - now_us // 1_000_000)
    parameters = [*((name, value) for name, value in given.items() if name not in ("oauth_signature", "realm")), *call.query]
    if call.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded") and isinstance(call.body, str):
        parameters += parse_qsl(call.body)
    wanted = sign(call.method, call.url, parameters, state.vault.open_text(row.sealed), token_secret)
    if not hmac.compare_digest(wanted.encode(), given.get("oauth_signature", "").encode()):
        raise Unauthorized().because("oauth.signature", consumer=row.id)
    nonce = hashlib.sha256(f"{row.id}\0{stamp}\0{given.get('oauth_nonce', '')}".encode()).hexdigest()
    connection.execute(delete(oauth_nonce).where(oauth_nonce.c.expires_us < now_us))
    if not ensure_row(connection, oauth_nonce, {"id": nonce}, {"expires_us": now_us + 2 * _SKEW_S * 1_000_000}):
        raise Unauthorized().because("oauth.nonce")


def sign(method: str, url: str, parameters: list[tuple[str, str]], consumer_secret: str, token_secret: str) -> str:
    """RFC 5849, 3.4: the signature of a request; url without its query."""
    def escape(text: str) -> str:
        return quote(text, safe="~")

    joined = "&".join(f"{name}={value}" for name, value in sorted((escape(name), escape(value)) for name, value in parameters))
    base = "&".join((method.upper(), escape(url), escape(joined)))
    key = f"{escape(consumer_secret)}&{escape(token_secret)}"
    return b64encode(hmac.digest(key.encode(), base.encode(), hashlib.sha1)).decode()


_TOKENS = "/v3/users/{user_id}/OS-OAUTH1/access_tokens"
ROUTES = (
    Route("POST", "/v3/OS-OAUTH1/consumers", create_consumer, "identity:create_consumer", 201, _CONSUMER),
    Route("GET", "/v3/OS-OAUTH1/consumers", list_consumers, "identity:list_consumers"),
    Route("GET", "/v3/OS-OAUTH1/consumers/{consumer_id}", get_consumer, "identity:get_consumer"),
    Route("PATCH", "/v3/OS-OAUTH1/consumers/{consumer_id}", update_consumer, "identity:update_consumer", 200, _CONSUMER),
    Route("DELETE", "/v3/OS-OAUTH1/consumers/{consumer_id}", delete_consumer, "identity:delete_consumer", 204),
    Route("POST", "/v3/OS-OAUTH1/request_token", create_request_token, None, 201, needs_token=False),
    Route("PUT", "/v3/OS-OAUTH1/authorize/{token_id}", authorize, "identity:authorize_request_token", 200, _AUTHORIZE),
    Route("POST", "/v3/OS-OAUTH1/access_token", create_access_token, None, 201, needs_token=False),
    Route("GET", _TOKENS, list_access_tokens, "identity:list_access_tokens"),
    Route("GET", _TOKENS + "/{access_token_id}", get_access_token, "identity:get_access_token"),
    Route("DELETE", _TOKENS + "/{access_token_id}", delete_access_token, "identity:delete_access_token", 204),
    Route("GET", _TOKENS + "/{access_token_id}/roles", list_access_token_roles, "identity:list_access_token_roles"),
    Route("GET", _TOKENS + "/{access_token_id}/roles/{role_id}", get_access_token_role, "identity:get_access_token_role"),
)

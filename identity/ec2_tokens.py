"""/v3/ec2tokens and /v3/s3tokens: a service that got a request signed with an S3 key asks whose it is.

Only services and administrators may ask: an answer is a token, or what a token would mean.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row

from common.errors import BadRequest, Unauthorized
from control.app import Call
from control.routes import Answer, Route
from control.schema import BodySchema
from identity.credentials import find_ec2, open_key
from identity.login import token_catalog
from identity.scopes import Meaning, make_meaning
from identity.signatures import SignedRequest, decode_string, matches_request, matches_string, signed_at_us
from identity.state import Identity
from identity.tokens import TokenFacts, encode_token, new_audit_id
from identity.views import show_token

_FRESH_US = 900 * 1_000_000
_TEXTS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "array", "null"]}}
_SIGNED = {"type": "object", "required": ["access", "signature"], "properties": {
    "access": {"type": "string", "minLength": 1, "maxLength": 255}, "signature": {"type": "string", "maxLength": 1_024},
    "host": {"type": "string"}, "verb": {"type": "string"}, "path": {"type": "string"}, "params": _TEXTS, "headers": _TEXTS,
    "body_hash": {"type": "string"}, "token": {"type": "string"}}}
_BODY = BodySchema({"type": "object", "properties": {"credentials": _SIGNED, "ec2Credentials": _SIGNED}, "minProperties": 1})


async def ec2_token(call: Call) -> Answer:
    """The request itself comes along; the answer is a token."""
    return await _answer(call, _check_request, gives_token=True)


async def s3_token(call: Call) -> Answer:
    """The string to sign comes along; the answer says what a token would mean, and is none."""
    return await _answer(call, _check_string, gives_token=False)


async def _answer(call: Call, check: Any, *, gives_token: bool) -> Answer:
    call.enforce()
    given = call.body.get("credentials") or call.body.get("ec2Credentials")
    if not isinstance(given, Mapping):
        raise BadRequest(reason="The body names credentials.")
    state: Identity = call.state

    def find(connection: Connection, _: Call) -> tuple[Meaning, list[dict[str, Any]]]:
        generation = state.refresh_here(connection)
        row = find_ec2(connection, given["access"])
        if row is None:
            raise Unauthorized().because("ec2.unknown_key")
        key = open_key(state, row)
        if key is None:
            raise Unauthorized().because("ec2.unusable_key", user=row.user_id)
        if not check(state, key[1], given):
            raise Unauthorized().because("ec2.signature", user=row.user_id)
        found = _meaning(connection, state, row, generation)
        return found, token_catalog(connection, call, found)

    found, catalog = await call.read(find)
    headers = {"X-Subject-Token": encode_token(found.facts, state.keys)} if gives_token else {}
    return Answer(body=show_token(found, catalog=catalog), headers=headers)


def _meaning(connection: Connection, state: Identity, row: Row[Any], generation: int) -> Meaning:
    """No more than its owner may do in the project now; under an application credential or trust no more than that."""
    now_us = state.clock.now_us()
    return make_meaning(connection, state, TokenFacts(
        user_id=row.user_id, methods=("ec2credential",), scope_kind="project", scope_id=row.project_id, issued_us=now_us,
        expires_us=now_us + state.config.token_life_s * 1_000_000, generation=generation,
        audit_ids=(new_audit_id(),), app_credential_id=row.app_credential_id, trust_id=row.trust_id))


def _check_string(_: Identity, secret: str, given: Mapping[str, Any]) -> bool:
    string_to_sign = decode_string(given.get("token", ""))
    return string_to_sign is not None and matches_string(secret, given["signature"], string_to_sign)


def _check_request(state: Identity, secret: str, given: Mapping[str, Any]) -> bool:
    request = SignedRequest(
        verb=given.get("verb", ""), host=given.get("host", ""), path=given.get("path", ""), body_hash=given.get("body_hash", ""),
        params={name: str(value) for name, value in given.get("params", {}).items()},
        headers={name.lower(): str(value) for name, value in given.get("headers", {}).items()})
    signed_us = signed_at_us(request)
    if signed_us is None or abs(signed_us - state.clock.now_us()) > _FRESH_US:
        raise Unauthorized().because("ec2.clock", has_time=signed_us is not None)
    return matches_request(secret, given["signature"], request)


ROUTES = (
    Route("POST", "/v3/ec2tokens", ec2_token, "identity:ec2_tokens", 200, _BODY, is_read=True),
    Route("POST", "/v3/s3tokens", s3_token, "identity:s3_tokens", 200, _BODY, is_read=True),
)

"""What is in a token: who, how, for what, until when. Sealed, so that a client can neither read nor change it; stored nowhere.

    content as in identity/wire.py, sealed by a Fernet key; base64 without its padding

generation: how far the counter of authorization changes was when the token was made. A revocation that counts higher ends it, so
no clock decides whether a token is older than a revocation.
"""
from __future__ import annotations

import secrets

from common.errors import Unauthorized
from identity.keys import KeySet
from identity.wire import METHODS, SCOPES, TOKEN_CHARS_MAX, TokenFacts, pack_token, unpack_audit, unpack_token

__all__ = ["METHODS", "SCOPES", "TokenFacts", "decode_token", "encode_token", "new_audit_id"]


def encode_token(facts: TokenFacts, keys: KeySet) -> str:
    """About 200 characters."""
    return keys.seal(pack_token(facts)).decode().rstrip("=")


def decode_token(token: str, keys: KeySet) -> TokenFacts:
    """Who made it is certain, whether it is still good is not asked. Raises `Unauthorized`."""
    if len(token) > TOKEN_CHARS_MAX or not token.isascii():
        raise Unauthorized().because("token.malformed")
    packed = keys.open(token.encode() + b"=" * (-len(token) % 4))
    if packed is None:
        raise Unauthorized().because("token.forged")
    return unpack_token(packed)


def new_audit_id() -> str:
    """22 characters."""
    return unpack_audit(secrets.token_bytes(16))

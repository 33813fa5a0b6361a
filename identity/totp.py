"""Time-based one-time passwords (RFC 6238: SHA-1, 30 s, 6 digits). One that was used is not taken again."""
from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from sqlalchemy import Connection, update

from control.db import ensure_row
from identity.model import totp_used

_STEP_S, _DIGITS, _WINDOW = 30, 6, 1


def seed_bytes(secret: str) -> bytes | None:
    """The key in a base32 text. None for a secret that is none: an empty key would be everybody's."""
    try:
        return base64.b32decode(secret.upper() + "=" * (-len(secret) % 8)) or None
    except (binascii.Error, ValueError):
        return None


def passcode_at(secret: str, step: int) -> str | None:
    """The six digits of a time step; secret: base32. None for a secret that is none."""
    key = seed_bytes(secret)
    if key is None:
        return None
    mac = hmac.digest(key, step.to_bytes(8, "big"), hashlib.sha1)
    offset = mac[-1] & 15
    return str((int.from_bytes(mac[offset:offset + 4], "big") & 0x7FFFFFFF) % 10 ** _DIGITS).zfill(_DIGITS)


def matching_step(secret: str, passcode: str, *, now_s: int) -> int | None:
    """The time step, the present one or one beside it, that a passcode belongs to."""
    now = now_s // _STEP_S
    for step in range(now - _WINDOW, now + _WINDOW + 1):
        wanted = passcode_at(secret, step)
        if wanted is not None and hmac.compare_digest(wanted.encode(), passcode.encode(errors="replace")):
            return step
    return None


def use_step(connection: Connection, credential_id: str, step: int) -> bool:
    """False if this time step, or a later one, was used before."""
    if ensure_row(connection, totp_used, {"credential_id": credential_id}, {"step": step}):
        return True
    return connection.execute(update(totp_used).where(totp_used.c.credential_id == credential_id, totp_used.c.step < step)
                              .values(step=step)).rowcount > 0

"""The state of an account, as its register holds it; its rows are containers, in a database like a container's.

    | state: msgpack [created us, put us, meta, headers] |            travels as `Version.descriptor` (object/wire.py)
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgpack

from common.errors import Corruption
from common.packing import pack


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """What the register of an account says."""

    created_us: int
    put_us: int
    meta: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def pack(self) -> bytes:
        return pack((self.created_us, self.put_us, dict(self.meta), dict(self.headers)))


def unpack_account_state(packed: bytes) -> AccountState:
    """Raises `Corruption`."""
    try:
        created_us, put_us, meta, headers = msgpack.unpackb(packed)
    except (ValueError, TypeError) as error:
        raise Corruption(what="account state", reason=str(error)) from error
    return AccountState(created_us=created_us, put_us=put_us, meta=meta, headers=headers)

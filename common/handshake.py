"""Who is at the other end: both sides prove that they know a key before the first request.

    client                                   server
    HELLO version, names, role, fingerprint, nonce  →
                     ←  CHALLENGE version, name, role, fingerprint, nonce, HMAC(key, "server", all of the above)
    PROOF HMAC(key, "client", all of the above)  →
                     ←  WELCOME                      REFUSED reason, from either side, at any step

The key is that of the client's node, derived from the cluster's secret, so that a node can be given its own key alone
and one that was stolen impersonates nobody else's node. The fingerprint is of what decides placement: two nodes that
differ must not move one byte. Nothing here touches a socket. HMAC-SHA-256, source: RFC 2104.
"""
from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from common.errors import HandshakeRefused

PROTOCOL_VERSION = 1
NONCE_BYTES = 32
NAME_CHARS_MAX = 256
HANDSHAKE_FRAME_BYTES_MAX = 4096         # an end that has not proved itself gets no more memory than this

KeyLookup = Callable[[str], bytes | None]


def derive_key(secret: bytes, name: str) -> bytes:
    """The key of one node, 32 bytes. Knowing it tells nothing of `secret` or of another node's."""
    return hmac.digest(secret, b"holdfast node key\0" + name.encode(), "sha256")


def cluster_keys(secret: bytes) -> KeyLookup:
    """The keys of all nodes, for an end that has the cluster's secret. "node3/w0" has the key of "node3"."""
    return lambda name: derive_key(secret, name.partition("/")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one end says of itself, and how it finds the key of a client by name."""

    name: str                            # "node3/w0"
    role: str                            # "worker", "consistency", "control", "admin"
    fingerprint: str
    keys: KeyLookup                      # None: no such node
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end, proved."""

    name: str
    role: str


class ClientHandshake:
    """The side that connected. expected: the name it means to reach, "" for whoever answers."""

    def __init__(self, own: Credentials, *, expected: str = "", nonce: bytes | None = None) -> None:
        self._own, self._expected = own, expected
        self.peer = Peer(name="", role="")                       # set by `prove`
        self._hello = [own.version, own.name, expected, own.role, own.fingerprint, nonce or os.urandom(NONCE_BYTES)]

    def hello(self) -> list[object]:
        """Fields of HELLO."""
        return list(self._hello)

    def prove(self, challenge: list[Any]) -> list[object]:
        """Fields of PROOF; from now on `peer` is who the server is. Raises `HandshakeRefused`."""
        version, name, role, fingerprint, _, proof = _check(challenge, (int, str, str, str, bytes, bytes))
        _compare(self._own, version=version, fingerprint=fingerprint)
        if self._expected and name != self._expected:
            raise HandshakeRefused(reason=f"this is {name}, not {self._expected}")
        key = self._own.keys(self._own.name)
        transcript = [self._hello, challenge[:5]]
        if key is None or not hmac.compare_digest(_mac(key, "server", transcript), proof):
            raise HandshakeRefused(reason=f"{name} has another key")
        self.peer = Peer(name=name, role=role)
        return [_mac(key, "client", transcript)]


class ServerHandshake:
    """The side that was connected to."""

    def __init__(self, own: Credentials, *, nonce: bytes | None = None) -> None:
        self._own, self._nonce = own, nonce or os.urandom(NONCE_BYTES)
        self._key = b""
        self._transcript: list[object] = []
        self.peer = Peer(name="", role="")                       # as claimed; proved once `verify` returns

    def challenge(self, hello: list[Any]) -> list[object]:
        """Fields of CHALLENGE. Raises `HandshakeRefused`."""
        version, name, expected, role, fingerprint, _ = _check(hello, (int, str, str, str, str, bytes))
        self.peer = Peer(name=name, role=role)
        own = self._own
        _compare(own, version=version, fingerprint=fingerprint)
        if expected not in ("", own.name):
            raise HandshakeRefused(reason=f"this is {own.name}, not {expected}")
        key = own.keys(name)
        if key is None:
            raise HandshakeRefused(reason=f"{name} is not known here")
        fields: list[object] = [own.version, own.name, own.role, own.fingerprint, self._nonce]
        self._key, self._transcript = key, [hello, fields]
        return [*fields, _mac(key, "server", self._transcript)]

    def verify(self, proof: list[Any]) -> Peer:
        """Who the client is. Raises `HandshakeRefused`."""
        (mac,) = _check(proof, (bytes,))
        if not self._key or not hmac.compare_digest(_mac(self._key, "client", self._transcript), mac):
            raise HandshakeRefused(reason=f"{self.peer.name} has another key")
        return self.peer


def _mac(key: bytes, side: str, transcript: Sequence[object]) -> bytes:
    return hmac.digest(key, msgpack.packb(["holdfast handshake", side, transcript]), "sha256")


def _compare(own: Credentials, *, version: int, fingerprint: str) -> None:
    if version != own.version:
        raise HandshakeRefused(reason=f"protocol version {version}, here {own.version}")
    if fingerprint != own.fingerprint:
        raise HandshakeRefused(reason=f"configuration {fingerprint[:64]}, here {own.fingerprint}")


def _check(fields: list[Any], kinds: tuple[type, ...]) -> list[Any]:
    """The fields of a handshake frame, or `HandshakeRefused`: another program may be at the other end."""
    if len(fields) != len(kinds) or not all(type(value) is kind for value, kind in zip(fields, kinds)):
        raise HandshakeRefused(reason="not a handshake")
    if any(len(value) > NAME_CHARS_MAX for value in fields if not isinstance(value, int)):
        raise HandshakeRefused(reason="a name or nonce is too long")
    if any(len(value) < NONCE_BYTES for value in fields if isinstance(value, bytes)):
        raise HandshakeRefused(reason="a nonce is too short")
    return fields

"""Records that cross the network to and from an object device: keys, versions, replies, descriptors.

    | key: space u8 | partition u32 | hash 16 bytes |                    21 bytes, big-endian: index order
    | version: msgpack [stamp 24B, root 24B, kind, path, body id, size, descriptor] |
    | descriptor: msgpack map, opaque to replicas; `Descriptor` below |

The same register holds an object, a container's state or an account's state; `space` tells them apart.
"""
from __future__ import annotations

import asyncio
import enum
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from common.errors import Corruption
from common.futures import Sink
from common.packing import pack
from common.timestamp import ZERO, Stamp, unpack_stamp

_KEY = struct.Struct(">BI16s")
KEY_BYTES = _KEY.size
OP_LOOK, OP_ACCEPT, OP_LEARN, OP_STAGE, OP_OWED, OP_DONE, OP_READ_BODY, OP_COMPARE, OP_MARKS, OP_OWES = range(16, 26)
SPACE_ACCOUNT, SPACE_CONTAINER, SPACE_OBJECT = 0, 1, 16      # SPACE_OBJECT + index of the storage policy


def make_key(space: int, partition: int, name_hash: bytes) -> bytes:
    """The key of one register on a device. name_hash: 16 bytes (ring/placement.py)."""
    return _KEY.pack(space, partition, name_hash)


def split_key(key: bytes) -> tuple[int, int, bytes]:
    """(space, partition, hash) of `make_key`."""
    space, partition, name_hash = _KEY.unpack(key)
    return space, partition, name_hash


DESCRIPTOR_BYTES_MAX = 32_768            # a version has to fit into the header of a frame, with its path


class Kind(enum.IntEnum):
    """What a version says about its name."""

    NOTHING = 0          # never written; proposed only to settle a condition that met nothing
    LIVE = 1
    TOMBSTONE = 2


class BodyState(enum.IntEnum):
    """What one replica has of the body of the version it holds."""

    NONE = 0             # there is none: tombstone, empty object, container state
    INLINE = 1           # in the journal record
    FILE = 2             # a file of its own
    LEARNED = 3          # order known, body still missing: counts for order, not for redundancy
    DAMAGED = 4          # was here, failed its check, quarantined
    LOST = 5             # of the version only ballot and stamp are known: the record was damaged


class Version(NamedTuple):
    """One state of a register. Its id is `stamp.write_id`; `root` is the stamp of the last unconditional write beneath."""

    stamp: Stamp
    root: Stamp
    kind: int            # Kind
    path: str            # "/account/container/object"
    body_id: int         # write id of the write that brought the body; 0: no body
    size_bytes: int      # of the body
    descriptor: bytes    # packed Descriptor, or the state of a container or account
    packed: bytes        # these fields, encoded once


def make_version(*, stamp: Stamp, root: Stamp, kind: int, path: str, body_id: int = 0, size_bytes: int = 0,
                 descriptor: bytes = b"") -> Version:
    """A version with its encoding; the encoding is made once and copied to every replica's record."""
    packed = pack((stamp.pack(), root.pack(), int(kind), path, body_id, size_bytes, descriptor))
    return Version(stamp, root, kind, path, body_id, size_bytes, descriptor, packed)


def restamp(version: Version, *, stamp: Stamp, root: Stamp) -> Version:
    """The same content as another state."""
    return make_version(stamp=stamp, root=root, kind=version.kind, path=version.path, body_id=version.body_id,
                        size_bytes=version.size_bytes, descriptor=version.descriptor)


def unpack_version(packed: bytes) -> Version:
    """Inverse of `Version.packed`. Raises `Corruption`."""
    if packed == NOTHING.packed:
        return NOTHING                   # what every look for a new name brings
    try:
        stamp, root, kind, path, body_id, size, descriptor = msgpack.unpackb(packed, unicode_errors="surrogatepass")
        return Version(unpack_stamp(stamp), unpack_stamp(root), kind, path, body_id, size, descriptor, packed)
    except (ValueError, TypeError, struct.error) as error:
        raise Corruption(what="version", reason=str(error)) from error


NOTHING = make_version(stamp=ZERO, root=ZERO, kind=Kind.NOTHING, path="")


class Mode(enum.IntEnum):
    """How an accept treats a body that is not here."""

    WRITE = 0            # refuse with no_body
    KEEP = 1             # record the version as learned


class Reply(NamedTuple):
    """State of one replica, as every message answers it. `wait_seq` stays inside the process of the device."""

    ok: bool
    promised: Stamp
    ballot: Stamp
    version: Version
    state: int           # BodyState
    wait_seq: int = 0    # journal sequence that must be synced before this leaves; 0: nothing to wait for
    body: bytes | None = None    # a look with `read_body` on a small object


ReplySink = Sink[Reply]
Answer = Reply | asyncio.Future[Reply] | ReplySink       # the reply, or who gets it: `into`, if that was given, else a future


async def whole(answer: Answer) -> Reply:
    """The reply of an answer that was asked for without `into`."""
    if isinstance(answer, Reply):
        return answer
    assert isinstance(answer, asyncio.Future)
    reply: Reply = await answer
    return reply


def reply_to_wire(reply: Reply) -> tuple[object, ...]:
    """Fields of a frame header; the body, when there is one, is the frame's body."""
    return (reply.ok, reply.promised, reply.ballot, reply.version.packed, int(reply.state))


def reply_from_wire(fields: list[object], body: bytes | None = None) -> Reply:
    """Inverse of `reply_to_wire`."""
    ok, promised, ballot, packed, state = fields
    assert isinstance(packed, bytes)
    return Reply(bool(ok), Stamp(*promised), Stamp(*ballot), unpack_version(packed),  # type: ignore[misc]
                 int(state), 0, body)  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What an object is, beside its bytes. Travels packed inside `Version.descriptor`; replicas do not look inside."""

    created_us: int                      # X-Timestamp, Last-Modified
    etag: str = ""                       # Swift's: hex MD5 of the body
    s3_etag: str = ""                    # S3's, when it differs (multipart)
    content_type: str = ""
    instance: int = 0                    # of the container it was written to
    delete_at_s: int = 0                 # seconds since 1970; 0: never
    meta: dict[str, str] = field(default_factory=dict)         # user metadata by lower-case name without prefix
    headers: dict[str, str] = field(default_factory=dict)      # Content-Encoding and the like
    extra: dict[str, object] = field(default_factory=dict)     # locks, tags, checksums, manifests: later fields

    def pack(self) -> bytes:
        fields = (self.created_us, self.etag, self.s3_etag, self.content_type, self.instance, self.delete_at_s,
                  self.meta, self.headers, self.extra)
        return pack(fields)


def unpack_descriptor(packed: bytes) -> Descriptor:
    """Inverse of `Descriptor.pack`. Raises `Corruption`."""
    try:
        (created_us, etag, s3_etag, content_type, instance, delete_at_s, meta, headers,
         extra) = msgpack.unpackb(packed, unicode_errors="surrogatepass")
    except (ValueError, TypeError) as error:
        raise Corruption(what="descriptor", reason=str(error)) from error
    return Descriptor(created_us=created_us, etag=etag, s3_etag=s3_etag, content_type=content_type, instance=instance,
                      delete_at_s=delete_at_s, meta=meta, headers=headers, extra=extra)

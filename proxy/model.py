"""What the gateway's doors (Swift now, S3 later) ask of the store, and what they get: records and the `Store` protocol.

Names are str with surrogateescape never used: a door refuses names that are not UTF-8 before it comes here. Metadata
keys are lower-case header names without a prefix of a door, e.g. user metadata {"color": "blue"}.
"""
from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from object.wire import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountInfo:
    """One account. meta: user metadata; headers: what is no user metadata (ACLs, quotas, keys), by lower-case name."""

    name: str
    created_us: int
    put_us: int                          # of the last change: X-Timestamp
    meta: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    container_count: int = 0
    object_count: int = 0
    bytes_used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInfo:
    """One container. policy: index of its storage policy; instance: changes when it is deleted and made again."""

    account: str
    name: str
    instance: int
    created_us: int
    put_us: int
    policy: int
    meta: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)     # "x-container-read", "x-container-write", ...
    object_count: int = 0
    bytes_used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaChange:
    """A merge: values to set; an empty value removes the name. Decided anew on the settled state, so it may run twice."""

    meta: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Mapping[str, str]], None] | None = None     # of the merged user metadata; raises BadRequest

    @property
    def is_empty(self) -> bool:
        """Nothing is set or removed: what is wanted is that the thing exists."""
        return not self.meta and not self.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A request for one page of names, in the order of their UTF-8 bytes; exclusive bounds "" for none."""

    limit: int
    marker: str = ""
    end_marker: str = ""
    prefix: str = ""
    delimiter: str = ""                  # any length: names are rolled up to "prefix...delimiter"
    path: str | None = None              # Swift's pseudo-directories: as prefix path/ and delimiter / without subdirs
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Subdir:
    """A rolled-up name, ends with the delimiter."""

    name: str


class ObjectEntry(NamedTuple):
    """A row of a container listing."""

    name: str
    size_bytes: int
    etag: str
    content_type: str
    created_us: int                      # last_modified


class ContainerEntry(NamedTuple):
    """A row of an account listing."""

    name: str
    object_count: int
    bytes_used: int
    put_us: int                          # last_modified


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """The settled state of one object."""

    path: str
    size_bytes: int
    descriptor: Descriptor
    body: bytes | None = None            # a small body that came along with the look
    is_listed: bool = True               # False: the answer says X-Listing: pending
    source: object = None                # private to the store: where the body can be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one round of looks found for a write: the container's current state, and the object as far as seen."""

    container: ContainerInfo
    current: ObjectInfo | None           # as the look showed it: good for authorization and 404, not for conditions
    state: object                        # private to the store: replies that the write goes on from


Condition = Callable[[ObjectInfo | None], None]          # raises PreconditionFailed; decided on the settled state


class BodySource(Protocol):
    """An incoming body."""

    length: int | None                   # None: chunked

    def take_ready(self) -> bytes | None:
        """All of it, if it is here already and small."""

    async def read_chunk(self, admit: Callable[[int], Awaitable[None]] | None = None) -> bytes:
        """Next piece, b"" at the end; `admit` is awaited with its size before it takes memory of its own.

        Raises `BodyTooShort`, `BadRequest`.
        """


class Store(Protocol):
    """The store under the doors. Every method may raise `QuorumNotMet`, `OutcomeUnknown`, `Overloaded`, `DeviceFull`."""

    async def account(self, name: str, *, fresh: bool = False) -> AccountInfo:
        """Raises `NotFound`. fresh: settled now; else up to a second old."""

    async def create_account(self, name: str, change: MetaChange) -> bool:
        """Create or change; True when it is new. Raises `Conflict` while a deleted one is being emptied."""

    async def post_account(self, name: str, change: MetaChange) -> None: ...
    async def delete_account(self, name: str) -> None: ...
    async def list_account(self, name: str, page: Page) -> tuple[AccountInfo, list[ContainerEntry | Subdir]]: ...

    async def container(self, account: str, name: str, *, fresh: bool = False) -> ContainerInfo:
        """Raises `NotFound`."""

    async def put_container(self, account: str, name: str, change: MetaChange, *, policy: int | None) -> bool:
        """Create or change; True when it is new. Raises `Conflict` (other policy), `NotFound` (account)."""

    async def post_container(self, account: str, name: str, change: MetaChange) -> None: ...
    async def delete_container(self, account: str, name: str) -> None:
        """Raises `Conflict` when it is not empty."""

    async def list_container(self, account: str, name: str, page: Page) -> tuple[ContainerInfo, list[ObjectEntry | Subdir]]:
        """A listing that begins after a write was answered shows it."""

    async def look(self, account: str, container: str, name: str) -> Target:
        """Container and object in one round, before a write. Raises `NotFound` (container)."""

    async def get_object(self, account: str, container: str, name: str, *, want_body: bool) -> tuple[ContainerInfo, ObjectInfo]:
        """The settled state; container metadata up to a second old. Raises `NotFound`; expired objects are not found."""

    def read_body(self, info: ObjectInfo, offset: int, count: int) -> AsyncIterator[bytes]:
        """Checked bytes, in pieces of at most 1 MiB. Fails over between replicas; raises `Corruption` when none is left."""

    async def put_object(self, target: Target, descriptor: Descriptor, body: BodySource, *, condition: Condition | None,
                         expected_etag: str | None, size_max: int) -> ObjectInfo:
        """Store. The store fills in etag, created_us and size; raises `ChecksumMismatch`, `BodyTooLarge`, `BodyTooShort`."""

    async def post_object(self, target: Target, change: Callable[[Descriptor], Descriptor]) -> bool:
        """Replace metadata, decided on the settled state; False: not listed yet. Raises `NotFound`."""

    async def delete_object(self, target: Target, condition: Condition | None) -> ObjectInfo:
        """Remove; what was there as the look showed it. Raises `NotFound`."""

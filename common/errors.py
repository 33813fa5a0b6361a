"""The tree of errors that travel: each names its code once, carries facts as fields and survives the network.

A server sends `(code, fields)`; the client raises the same class again with `error_from_wire`. The HTTP status and
the S3 code of each kind live in `proxy/errors.py`.
"""
from __future__ import annotations

from typing import ClassVar, NamedTuple, Self

_BY_CODE: dict[str, type[StorageError]] = {}
CAUSES_MAX = 8                           # an error that many wait for is told to each; it must not grow with them


class Cause(NamedTuple):
    """One link of why: the stable name of the rule that decided ("acl.write"), and what it decided on. No secrets."""

    rule: str
    facts: dict[str, object]


class Explained(Exception):
    """An error that says why, for `holdfast explain`: links in the order in which they were added, the deciding one first.

    They stay in the process; over the network go code and fields.
    """

    causes: tuple[Cause, ...] = ()

    def because(self, rule: str, **facts: object) -> Self:
        """Add a link; returns the error, to be raised."""
        if len(self.causes) < CAUSES_MAX:
            self.causes = (*self.causes, Cause(rule, facts))
        return self

    def after(self, earlier: Explained) -> Self:
        """The links of another error, in whose place this one is raised, come first."""
        self.causes = (*earlier.causes, *self.causes)[:CAUSES_MAX]
        return self


class StorageError(Explained):
    """Root of everything that a client, a peer or a disk can cause. `fields` are msgpack-able facts."""

    code: ClassVar[str] = "storage_error"
    is_retryable: ClassVar[bool] = False

    def __init__(self, **fields: object) -> None:
        super().__init__(f"{self.code}: " + " ".join(f"{k}={v}" for k, v in fields.items()))
        self.fields = fields

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        other = _BY_CODE.setdefault(cls.code, cls)
        assert other is cls, f"two error classes for code {cls.code}"


class BadRequest(StorageError):
    """What the client sent cannot be understood or is not allowed by a constraint. reason: a sentence for the client."""

    code = "bad_request"


class Unauthorized(StorageError):
    """No valid credentials."""

    code = "unauthorized"


class Forbidden(StorageError):
    """Valid credentials that do not cover this."""

    code = "forbidden"


class NotFound(StorageError):
    """what: account, container or object."""

    code = "not_found"


class Conflict(StorageError):
    """The state does not allow this (a container that is not empty, a version that is newer)."""

    code = "conflict"


class PreconditionFailed(StorageError):
    """A condition of the request does not hold."""

    code = "precondition_failed"


class BodyTooShort(StorageError):
    """The client stopped before the announced length. expected_bytes, got_bytes."""

    code = "body_too_short"


class ClientTimeout(StorageError):
    """The client sent or took less than the minimum rate. what, waited_s."""

    code = "client_timeout"


class BodyTooLarge(StorageError):
    """limit_bytes."""

    code = "body_too_large"


class ChecksumMismatch(StorageError):
    """The body is not what the client announced. expected, computed."""

    code = "checksum_mismatch"


class IdentityAway(StorageError):
    """Whether a token is good cannot be said: identity has not been heard of for too long, or not yet. silent_s."""

    code, is_retryable = "identity_away", True


class QuorumNotMet(StorageError):
    """Too few replicas answered, nothing is known to have happened. needed, answers={device: code}."""

    code, is_retryable = "quorum_not_met", True


class OutcomeUnknown(StorageError):
    """The deadline passed while the write was being settled: it may or may not take effect."""

    code, is_retryable = "outcome_unknown", True


class Overloaded(StorageError):
    """A bounded resource is used up. what, retry_after_s."""

    code, is_retryable = "overloaded", True


class DeviceFull(StorageError):
    """Above the fill limit: writes are refused, deletes go on. device, free_bytes."""

    code = "full"


class DeviceUnavailable(StorageError):
    """The device is absent, retired or its owner cannot be reached. device, reason."""

    code, is_retryable = "device_unavailable", True


class DeviceRefused(StorageError):
    """The directory must not be used as this device: foreign, newer, mounted twice, copied. device, reason."""

    code = "device_refused"


class ReadOnlyDevice(StorageError):
    """The file system does not take writes. device, reason."""

    code = "read_only_device"


class OlderConfig(StorageError):
    """The message was placed by an older ring or configuration than this replica's. mine, theirs."""

    code, is_retryable = "older_config", True


class NotCounted(StorageError):
    """This device came back with less than its peers remember: it takes writes, its looks do not count. device, reason."""

    code, is_retryable = "not_counted", True


class ClockRefused(StorageError):
    """A stamp further ahead than max_skew. ahead_us."""

    code = "clock"


class PromiseOutstanding(StorageError):
    """A row waits behind a change of its container that has not ended; settle the container and send it again."""

    code, is_retryable = "promise_outstanding", True


class DeadInstance(StorageError):
    """The row belongs to a container that was deleted. instance."""

    code = "dead_instance"


class NoBody(StorageError):
    """An accept that writes names a body that is not staged here."""

    code, is_retryable = "no_body", True


class Corruption(StorageError):
    """what: quarantine and repair, never retry."""

    code = "corruption"


class TransportLost(StorageError):
    """The connection broke before the answer: the request may have been executed. peer."""

    code, is_retryable = "transport_lost", True


class StreamAborted(StorageError):
    """The other end of a stream gave up: what was received is not the whole. reason."""

    code = "stream_aborted"


class DeadlineExceeded(StorageError):
    """No answer in time. what, waited_s."""

    code, is_retryable = "deadline_exceeded", True


class HandshakeRefused(StorageError):
    """The two ends do not belong together. reason."""

    code = "handshake_refused"


class ConfigError(StorageError):
    """The configuration cannot be used. where ("file:line"), reason."""

    code = "config_error"


class RingError(StorageError):
    """A ring operation that cannot be done. reason."""

    code = "ring_error"


class BenchFailed(StorageError):
    """A measurement that cannot be made. reason: a sentence for the one who asked for it."""

    code = "bench_failed"


class UnknownError(StorageError):
    """A code that this version does not know, from a newer peer. remote_code."""

    code = "unknown_error"


def error_to_wire(error: StorageError) -> tuple[str, dict[str, object]]:
    """The two values that travel: code and fields."""
    return error.code, error.fields


def error_from_wire(code: str, fields: dict[str, object]) -> StorageError:
    """The error of the same class again; a code from a newer peer becomes `UnknownError`."""
    kind = _BY_CODE.get(code)
    if kind is None:
        return UnknownError(remote_code=code, **fields)
    return kind(**fields)

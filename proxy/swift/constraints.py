"""Swift's limits, with its statuses and messages; the numbers come from the table [limits]."""
from __future__ import annotations

from collections.abc import Mapping

from common.errors import BadRequest
from proxy.config import LimitsConfig
from proxy.errors import Refusal
from proxy.http.message import Request


def check_name(kind: str, name: str, limit: int) -> None:
    """kind: "Account", "Container" or "Object". Raises `BadRequest`."""
    length = len(name) if name.isascii() else len(name.encode())
    if length > limit:
        raise BadRequest(reason=f"{kind} name length of {length} longer than {limit}").because(
            "limits.name", kind=kind, length=length, limit=limit)


def check_header_sizes(items: list[tuple[str, str]], limits: LimitsConfig) -> None:
    """No single value above the limit. Raises `BadRequest`."""
    for name, value in items:
        if len(value) > limits.max_header_size:
            raise BadRequest(reason=f"Header value too long: {name[:limits.max_meta_name_length]}").because(
                "limits.header", length=len(value), limit=limits.max_header_size)


def check_meta(meta: Mapping[str, str], limits: LimitsConfig, prefix: str) -> None:
    """User metadata of one request, or of one object as a whole. prefix: "x-object-meta-". Raises `BadRequest`."""
    total = 0
    for name, value in meta.items():
        name_bytes, value_bytes = _length(name), _length(value)
        if not name:
            raise BadRequest(reason="Metadata name cannot be empty").because(
                "limits.meta_name", length=0, limit=limits.max_meta_name_length)
        if name_bytes > limits.max_meta_name_length:
            raise BadRequest(reason=f"Metadata name too long: {prefix}{name}").because(
                "limits.meta_name", length=name_bytes, limit=limits.max_meta_name_length)
        if value_bytes > limits.max_meta_value_length:
            raise BadRequest(reason=f"Metadata value longer than {limits.max_meta_value_length}: {prefix}{name}").because(
                "limits.meta_value", name=prefix + name, length=value_bytes, limit=limits.max_meta_value_length)
        total += name_bytes + value_bytes
    check_meta_totals(meta, limits, total)


def check_meta_totals(meta: Mapping[str, str], limits: LimitsConfig, total: int | None = None) -> None:
    """Number of items and their bytes together, also of what a merge would leave behind. Raises `BadRequest`."""
    if len(meta) > limits.max_meta_count:
        raise BadRequest(reason=f"Too many metadata items; max {limits.max_meta_count}").because(
            "limits.meta_count", count=len(meta), limit=limits.max_meta_count)
    if total is None:
        total = sum(_length(name) + _length(value) for name, value in meta.items())
    if total > limits.max_meta_overall_size:
        raise BadRequest(reason=f"Total metadata too large; max {limits.max_meta_overall_size}").because(
            "limits.meta_size", length=total, limit=limits.max_meta_overall_size)


def check_utf8(meta: Mapping[str, str]) -> None:
    """Metadata of accounts and containers has to be text. Raises `BadRequest`."""
    for name, value in meta.items():
        if not (is_text(name) and is_text(value)):
            raise BadRequest(reason="Metadata must be valid UTF-8").because("names.utf8")


def check_upload(request: Request, limits: LimitsConfig) -> None:
    """The announced length. Raises `Refusal` 411, 413."""
    length = request.body.length
    if length is None:
        return                                                         # chunked: counted while it comes
    if length > limits.max_file_size:
        raise Refusal(413, "Your request is too large.").because("limits.file_size", length=length, limit=limits.max_file_size)
    if length == 0 and "content-length" not in request.headers:
        raise Refusal(411, "Missing Content-Length header.").because("request.length")


def is_text(value: str) -> bool:
    """Whether a value that was decoded with surrogate escapes is UTF-8."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))

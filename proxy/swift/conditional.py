"""If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since and If-Range. Pure; precedence of RFC 9110, 13.2.2."""
from __future__ import annotations

from calendar import timegm
from email.utils import parsedate_tz

from common.errors import PreconditionFailed
from object.wire import Descriptor
from proxy.errors import Refusal
from proxy.http.message import Headers
from proxy.model import Condition, ObjectInfo

_FIELDS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


def modified_us(descriptor: Descriptor) -> int:
    """When the object last changed, its metadata included: X-Timestamp and Last-Modified."""
    posted = descriptor.extra.get("post_us")
    return max(descriptor.created_us, posted) if isinstance(posted, int) else descriptor.created_us


def check_read(headers: Headers, descriptor: Descriptor) -> int:
    """200, 304 or 412 for a reader of this state."""
    if not any(name in headers for name in _FIELDS):
        return 200
    modified_s = -(-modified_us(descriptor) // 1_000_000)              # rounded up, as Last-Modified shows it
    matches = headers.get("if-match")
    if matches is not None:
        if not _has_tag(matches, descriptor.etag):
            return 412
    elif modified_s > _date(headers, "if-unmodified-since", modified_s):
        return 412
    unlike = headers.get("if-none-match")
    if unlike is not None:
        return 304 if _has_tag(unlike, descriptor.etag) else 200
    return 304 if modified_s <= _date(headers, "if-modified-since", modified_s - 1) else 200


def read_rule(headers: Headers, descriptor: Descriptor) -> tuple[str, dict[str, object]]:
    """Which condition of a reader made `check_read` say 412, and on what."""
    matches = headers.get("if-match")
    if matches is not None:
        return "precondition.if_match", {"wanted": matches, "etag": descriptor.etag}
    return "precondition.if_unmodified_since", {"wanted": headers.get("if-unmodified-since"), "changed_us": modified_us(descriptor)}


def write_condition(headers: Headers) -> Condition | None:
    """The condition of a PUT or DELETE, to be decided on the settled state; None without one. Raises `Refusal` 400."""
    unlike, matches = headers.get("if-none-match"), headers.get("if-match")
    if unlike is None and matches is None:
        return None
    if unlike is not None and "*" not in (tag.strip() for tag in unlike.split(",")):
        raise Refusal(400, "If-None-Match only supports *").because("precondition.syntax")

    def condition(current: ObjectInfo | None) -> None:
        if unlike is not None and current is not None:
            raise PreconditionFailed().because("precondition.if_none_match", wanted=unlike, etag=current.descriptor.etag,
                                               created_us=current.descriptor.created_us)
        if matches is not None and (current is None or not _has_tag(matches, current.descriptor.etag)):
            raise PreconditionFailed().because("precondition.if_match", wanted=matches,
                                               etag=current.descriptor.etag if current is not None else None)
    return condition


def range_applies(headers: Headers, descriptor: Descriptor) -> bool:
    """Whether If-Range, if there, names this very state; otherwise the reader wants all of it."""
    value = headers.get("if-range")
    if value is None:
        return True
    value = value.strip()
    if value.startswith(('"', "W/")) or parse_http_date(value) is None:
        return _unquote(value) == descriptor.etag
    return parse_http_date(value) == -(-modified_us(descriptor) // 1_000_000)


def _has_tag(field: str, etag: str) -> bool:
    return any(tag in ("*", etag) for tag in (_unquote(part.strip()) for part in field.split(",")))


def _unquote(tag: str) -> str:
    """Swift compares weak tags and tags without quotes as well."""
    return tag.removeprefix("W/").strip('"')


def _date(headers: Headers, name: str, default: int) -> int:
    """Seconds since 1970; `default` for a field that is absent or no date, which is ignored."""
    text = headers.get(name)
    found = parse_http_date(text) if text is not None else None
    return default if found is None else found


def parse_http_date(text: str) -> int | None:
    """Seconds since 1970 of an HTTP date in any of its three forms, None if it is none."""
    try:
        parts = parsedate_tz(text)
        return None if parts is None else timegm((*parts[:6], 0, 1, 0)) - (parts[9] or 0)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None

"""Which API a request speaks, decided once and from the request alone. docs/ARCHITECTURE.md, "Dispatch"."""
from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from urllib.parse import unquote_to_bytes

from proxy.http.message import Headers

RESERVED_FIRST_SEGMENTS = frozenset(
    {"v1", "v1.0", "auth", "info", "healthcheck", "recon", "endpoints", "crossdomain.xml"})   # never bucket names
_RESERVED = frozenset(word.encode() for word in RESERVED_FIRST_SEGMENTS)


class Api(Enum):
    """The two doors of the gateway."""

    SWIFT = "swift"
    S3 = "s3"


def choose_api(method: str, raw_path: bytes, headers: Headers, query: Mapping[str, str], *,
               s3_domain: str | None) -> Api:
    """Swift or S3, in this order: an AWS signature or a host under `s3_domain` is S3; a reserved first path segment is
    Swift; all else is S3 (anonymous reads, form posts, preflight).

    query: parsed parameters of the URL. s3_domain: "s3.example.org" or None; a host equal to it or below it counts.
    A form signature needs no look at method or body: a form is posted to a bucket, and no bucket has a reserved name.
    """
    if _is_signed(headers, query) or (s3_domain is not None and _is_under(headers.get("host", ""), s3_domain)):
        return Api.S3
    first = raw_path[1:].split(b"/", 1)[0]
    if b"%" in first:
        first = unquote_to_bytes(first)
    return Api.SWIFT if first in _RESERVED else Api.S3


def _is_signed(headers: Headers, query: Mapping[str, str]) -> bool:
    """SigV4 or SigV2, in the Authorization field or in the query (presigned URL)."""
    authorization = headers.get("authorization")
    if authorization is not None and authorization.startswith(("AWS4-", "AWS ")):
        return True
    if not query:
        return False
    return "X-Amz-Algorithm" in query or "X-Amz-Credential" in query or (
        "AWSAccessKeyId" in query and "Signature" in query)


def _is_under(host: str, domain: str) -> bool:
    """Whether `host` (port allowed) is `domain` or one of its subdomains, ignoring case."""
    name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
    name = name.rstrip(".").lower()
    domain = domain.lower()
    return name == domain or name.endswith("." + domain)

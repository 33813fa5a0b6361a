"""Signatures of AWS clients: versions 0, 1, 2 (RFC 2104 over query parameters), S3's HMAC-SHA1 and version 4. Pure.

Sources: the AWS General Reference, "Signing AWS API requests" (versions 2 and 4); the S3 developer guide for the string to sign.
"""
from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

_SCOPE = re.compile(r"(\d{8})/([^/\s]{1,64})/([^/\s]{1,64})/aws4_request")
_STAMP = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """What a service that received a signed request passes on. headers: by lower-case name."""

    verb: str
    host: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body_hash: str = ""


def matches_string(secret: str, signature: str, string_to_sign: bytes) -> bool:
    """For a gateway that made the string to sign itself: version 4 if it begins so, else S3's HMAC-SHA1 in base64."""
    if not string_to_sign.startswith(b"AWS4-HMAC-SHA256\n"):
        return _same(base64.b64encode(hmac.digest(secret.encode(), string_to_sign, hashlib.sha1)).decode(), signature)
    lines = string_to_sign.split(b"\n")
    scope = _SCOPE.fullmatch(lines[2].decode(errors="replace")) if len(lines) == 4 else None
    return scope is not None and _same(_sign_4(secret, scope, string_to_sign), signature)


def matches_request(secret: str, signature: str, request: SignedRequest) -> bool:
    """For a service that passes on the request: by its SignatureVersion parameter, else version 4."""
    match request.params.get("SignatureVersion"):
        case "0":
            text = request.params.get("Action", "") + request.params.get("Timestamp", "")
            return _same(_sha1(secret, text), signature)
        case "1":
            text = "".join(name + request.params[name] for name in sorted(request.params, key=str.lower) if name != "Signature")
            return _same(_sha1(secret, text), signature)
        case "2":
            return any(_same(one, signature) for one in _sign_2(secret, request))
    return _matches_4(secret, signature, request)


def signed_at_us(request: SignedRequest) -> int | None:
    """When a request says it was signed; None if it does not say so in a form that we know."""
    text = request.params.get("X-Amz-Date") or request.headers.get("x-amz-date") or request.params.get("Timestamp") \
        or request.headers.get("date") or ""
    for form in ("%Y%m%dT%H%M%SZ", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%a, %d %b %Y %H:%M:%S GMT"):
        try:
            return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() * 1e6)
        except ValueError:
            continue
    return None


def decode_string(text: str) -> bytes | None:
    """The string to sign, as a gateway sends it: base64, URL-safe or not."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _sha1(secret: str, text: str) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), hashlib.sha1)).decode()


def _sign_2(secret: str, request: SignedRequest) -> list[str]:
    """With the host as given, and without its port, which some clients leave out of the signature."""
    digest = hashlib.sha256 if request.params.get("SignatureMethod", "HmacSHA256") == "HmacSHA256" else hashlib.sha1
    pairs = sorted((name, value) for name, value in request.params.items() if name != "Signature")
    query = urlencode(pairs, quote_via=lambda text, *_: quote(text, safe="-_.~"))
    hosts = dict.fromkeys([request.host, request.host.rpartition(":")[0] if ":" in request.host else request.host])
    return [base64.b64encode(hmac.digest(secret.encode(), f"{request.verb}\n{host.lower()}\n{request.path}\n{query}".encode(),
                                         digest)).decode() for host in hosts]


def _matches_4(secret: str, signature: str, request: SignedRequest) -> bool:
    """Signed in a header or in the query."""
    given = _authorization(request)
    scope = _SCOPE.fullmatch(given.get("scope", ""))
    stamp = request.params.get("X-Amz-Date") or request.headers.get("x-amz-date", "")
    if scope is None or not _STAMP.fullmatch(stamp) or not stamp.startswith(scope[1]):
        return False
    names = given["signed"].split(";")
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
                     for name, value in sorted(request.params.items()) if name != "X-Amz-Signature")
    headers = "".join(f"{name}:{' '.join(_header(request, name).split())}\n" for name in names)
    canonical = "\n".join((request.verb, request.path, query, headers, given["signed"], request.body_hash))
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope[0], hashlib.sha256(canonical.encode()).hexdigest()))
    return _same(_sign_4(secret, scope, text.encode()), signature)


def _authorization(request: SignedRequest) -> dict[str, str]:
    """The scope, and the names of the signed header fields."""
    if "X-Amz-Credential" in request.params:
        return {"scope": request.params["X-Amz-Credential"].partition("/")[2],
                "signed": request.params.get("X-Amz-SignedHeaders", "host")}
    fields = dict(part.strip().partition("=")[::2] for part in request.headers.get("authorization",
                                                                                   "").partition(" ")[2].split(","))
    return {"scope": fields.get("Credential", "").partition("/")[2], "signed": fields.get("SignedHeaders", "")}


def _header(request: SignedRequest, name: str) -> str:
    return request.host if name == "host" else request.headers.get(name, "")


def _sign_4(secret: str, scope: re.Match[str], string_to_sign: bytes) -> str:
    key = f"AWS4{secret}".encode()
    for part in (scope[1], scope[2], scope[3], "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return hmac.new(key, string_to_sign, hashlib.sha256).hexdigest()


def _same(wanted: str, given: str) -> bool:
    return hmac.compare_digest(wanted.encode(), given.encode(errors="replace"))

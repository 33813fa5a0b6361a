"""Microversions: what a client asks for, what it gets, and which fields an answer of that version has."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from common.errors import BadRequest
from control.errors import NotAcceptable

_FORM = re.compile(r"([1-9]\d{0,4})\.(0|[1-9]\d{0,5})")


class Version(NamedTuple):
    """2.96 > 2.9."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def parse_version(text: str) -> Version:
    """Raises `BadRequest`."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise BadRequest(reason=f"API version string {text[:64]!r} is of invalid format: it must be MAJOR.MINOR")
    return Version(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRange:
    """What a service speaks. service_type: of the header OpenStack-API-Version; legacy: an older header of its own."""

    service_type: str
    lowest: Version
    highest: Version
    legacy_header: str | None = None

    def choose(self, headers: Mapping[str, str]) -> Version:
        """The version of a request, `lowest` if it asks for none. Raises `BadRequest`, `NotAcceptable`."""
        asked = self._asked(headers)
        if asked is None:
            return self.lowest
        if asked == "latest":
            return self.highest
        version = parse_version(asked)
        if not self.lowest <= version <= self.highest:
            raise NotAcceptable(lowest=str(self.lowest), highest=str(self.highest), reason=(
                f"Version {version} is not supported by the API. Minimum is {self.lowest} and maximum is {self.highest}."))
        return version

    def answer_headers(self, version: Version) -> dict[str, str]:
        """What every answer says about its version."""
        headers = {"OpenStack-API-Version": f"{self.service_type} {version}", "Vary": "OpenStack-API-Version"}
        if self.legacy_header is not None:
            headers[self.legacy_header] = str(version)
            headers["Vary"] += f", {self.legacy_header}"
        return headers

    def _asked(self, headers: Mapping[str, str]) -> str | None:
        """One header may ask several services: "compute 2.96, volume 3.71"."""
        for part in headers.get("OpenStack-API-Version", "").split(","):
            service, _, text = part.strip().partition(" ")
            if service.lower() == self.service_type and text.strip():
                return text.strip().lower()
        legacy = headers.get(self.legacy_header) if self.legacy_header is not None else None
        return legacy.strip().lower() if legacy else None


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an answer. since, until: the first and the last version that has it; read: from the row."""

    name: str
    read: Callable[[Any], object]
    _: KW_ONLY
    since: Version | None = None
    until: Version | None = None

    def is_in(self, version: Version) -> bool:
        """Whether an answer of this version has the field."""
        return (self.since is None or version >= self.since) and (self.until is None or version <= self.until)


def render_fields(fields: Iterable[Field], row: object, version: Version) -> dict[str, object]:
    """The fields that an answer of `version` has, no other: clients check closed schemas."""
    return {field.name: field.read(row) for field in fields if field.is_in(version)}

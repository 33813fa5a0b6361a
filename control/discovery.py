"""Version documents: what a client reads first, built from the URL under which it came."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from control.versions import VersionRange


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiVersion:
    """One major version. path: "/v3/"; microversions: of services that have them."""

    id: str
    path: str
    updated: str
    status: str = "CURRENT"
    media_types: Sequence[Mapping[str, str]] = ()
    microversions: VersionRange | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def document(self, base: str) -> dict[str, object]:
        """What stands for this version in a document. base: URL without a slash at its end."""
        out: dict[str, object] = {"id": self.id, "status": self.status, "updated": self.updated,
                                  "links": [{"rel": "self", "href": base + self.path}]}
        if self.media_types:
            out["media-types"] = [dict(kind) for kind in self.media_types]
        if self.microversions is not None:
            out["version"] = str(self.microversions.highest)
            out["min_version"] = str(self.microversions.lowest)
        return {**out, **self.extra}


def versions_document(versions: Sequence[ApiVersion], base: str, *, has_values: bool = False) -> dict[str, object]:
    """{"versions": [...]}, or {"versions": {"values": [...]}} where clients of the service expect that."""
    documents = [version.document(base) for version in versions]
    return {"versions": {"values": documents} if has_values else documents}

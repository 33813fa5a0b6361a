"""What clients did and saw, one event per request; as JSON lines, so that a history can be kept and judged again."""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

LIST, PUT, POST, DELETE, GET, HEAD = "list", "put", "post", "delete", "get", "head"
READS = (GET, HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One request. Times in seconds of one monotonic clock."""

    number: int                          # unique in the history
    client: int
    gateway: int | None                  # the worker that answered on this connection, if it could be told
    verb: str
    key: str                             # "" for a listing
    begin_s: float
    end_s: float | None                  # None: nobody knows what became of it
    status: int | None = None            # also that of a 5xx, whose outcome is unknown
    tag: str | None = None               # hex MD5 of the body that a PUT sends
    size: int | None = None              # of that body, or of the one that was seen
    mark: str | None = None              # metadata that a PUT or POST sends
    if_match: str | None = None
    if_none_match: str | None = None     # "*" for a PUT
    seen: tuple[str, str] | None = None  # tag and mark that a read was answered with
    is_pending: bool = False             # answered with X-Listing: pending
    rows: dict[str, tuple[str, int]] = field(default_factory=dict)       # of a listing: key -> tag and size
    wrong: str | None = None             # what no answer may be, whatever happened before


def save_history(events: Iterable[Event], path: Path) -> None:
    """Raises `OSError`."""
    with path.open("w") as out:
        for event in events:
            facts = {name: value for name, value in asdict(event).items()
                     if value is not None and value is not False and value != {}}
            out.write(json.dumps(facts) + "\n")


def load_history(path: Path) -> list[Event]:
    """Inverse of `save_history`."""
    with path.open() as lines:
        return [_event_of(json.loads(line)) for line in lines]


def _event_of(facts: dict[str, object]) -> Event:
    facts = {"gateway": None, "end_s": None, **facts}
    if facts.get("seen"):
        facts["seen"] = tuple(facts["seen"])  # type: ignore[arg-type]
    rows = facts.get("rows", {})
    assert isinstance(rows, dict)
    return Event(**{**facts, "rows": {key: tuple(row) for key, row in rows.items()}})  # type: ignore[arg-type]

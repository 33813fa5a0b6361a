"""`holdfast jobs`: what the control plane is at, what it did, and what failed."""
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from cli.status import format_table
from cli.up import add_where, find_root
from common.admin import AdminClient

_ABOUT = "The jobs of the control plane, newest first: what requests began, at which step each is, who is at it, why it failed."
_AFTER = """\
STATE: live (at work, or waiting for its turn), undoing (a step failed for good, what was made is taken back), done, failed.
ATTEMPT counts how often a worker took the job up. Jobs that are done are kept for 7 days, failed ones for 90.

Examples:
  holdfast jobs --state failed            what went wrong
  holdfast explain req-6f1c...            why, by the id of the request that began it

Exit code: 0."""
_COLUMNS = ("JOB", "KIND", "RESOURCE", "STATE", "STEP", "ATTEMPT", "BEGUN", "ERROR")
_TIMEOUT_S = 15.0


def jobs(argv: list[str]) -> int:
    """Print them. Raises `NotFound` (no control plane here), `TransportLost`."""
    parser = argparse.ArgumentParser(prog="holdfast jobs", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_where(parser)
    parser.add_argument("--state", choices=("live", "done", "failed"), help="only these")
    parser.add_argument("--resource", metavar="ID", help="only those of this resource")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (100)")
    parser.add_argument("--json", action="store_true", help="everything that is known, for programs")
    options = parser.parse_args(argv)
    asked = {"state": options.state, "resource": options.resource, "limit": options.limit}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    answer = AdminClient.from_state(find_root(options), timeout_s=_TIMEOUT_S).get(f"/jobs?{query}")
    print(json.dumps(answer, indent=2) if options.json else format_jobs(answer["jobs"]), end="\n" if options.json else "")
    return 0


def format_jobs(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table."""
    if not rows:
        return "no jobs\n"
    text = format_table(_COLUMNS, [_row(row) for row in rows])
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    begun = datetime.fromtimestamp(row["created_us"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    state = "undoing" if row["is_undoing"] and row["state"] == "live" else str(row["state"])
    error = f"{row['error']['step']}: {row['error']['reason']}" if row["error"] else ""
    return (row["id"][:12], row["kind"], row["resource"], state, row["step"], str(row["attempt"]), begun, error[:120])

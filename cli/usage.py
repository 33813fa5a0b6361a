"""`holdfast usage`: what accounts hold, asked for and moved, per UTC day, for bills and for curiosity."""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from cli.up import add_where, find_root
from common.admin import AdminClient
from common.clock import SystemClock
from common.errors import NotFound
from node.files import find_running
from node.usage import day_of, parse_days, read_usage

_ABOUT = "What each account held, asked for and moved, per UTC day; today if no day is given."
_AFTER = """\
Requests are those that were not refused: reads (GET and HEAD), writes (PUT, POST, COPY), lists (GET of a container or an account),
deletes. Received and sent are bytes of bodies. What an account holds is as it was after its last request of the day.

Examples:
  holdfast usage                                           today, all accounts
  holdfast usage --account AUTH_demo --from 2026-11-01     since that day
  holdfast usage --day 2026-11-19 --json                   for programs

Days are kept for 400 days. A worker that is killed loses at most its last 10 seconds.
Exit code: 0 all of it, 1 some of it cannot be read or a worker does not answer (standard error says which)."""
_COLUMNS = ("day", "account", "stored", "objects", "containers", "reads", "writes", "lists", "deletes", "received", "sent")
_TIMEOUT_S = 15.0


def usage(argv: list[str]) -> int:
    """Print it. Raises `BadRequest` (a day that is none), `TransportLost`."""
    options = _parse(argv)
    root = find_root(options)
    asked = {"day": options.day, "from": options.first, "to": options.last, "account": options.account}
    asked = {name: value for name, value in asked.items() if value is not None}
    first, last = parse_days(asked, day_of(SystemClock().now_us()))          # before anything is asked of the node
    if find_running(root) is not None:
        answer = AdminClient.from_state(root, timeout_s=_TIMEOUT_S).get(f"/usage?{urlencode(asked)}")
    elif not (root / "cluster.json").exists():
        raise NotFound(what="store", reason=f"there is no store in {root}")
    else:
        rows, problems = read_usage(root / "usage", first, last, options.account)
        answer = {"from": first, "to": last, "usage": [row.as_fields() for row in rows], "problems": problems, "silent_workers": 0}
    for problem in answer["problems"]:
        print(f"holdfast: not counted: {problem}", file=sys.stderr)
    if answer["silent_workers"]:
        print(f"holdfast: {answer['silent_workers']} worker(s) did not answer: their last seconds are missing", file=sys.stderr)
    print(json.dumps(answer, indent=2) if options.json else format_usage(answer), end="\n" if options.json else "")
    return 1 if answer["problems"] or answer["silent_workers"] else 0


def _parse(argv: list[str]) -> argparse.Namespace:
    options = make_parser().parse_args(argv)
    if options.day and (options.first or options.last):
        make_parser().error("--day stands alone; for a span of days write --from and --to")
    return options


def make_parser() -> argparse.ArgumentParser:
    """Of the command."""
    parser = argparse.ArgumentParser(prog="holdfast usage", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--account", metavar="A", help="this one only, as in its storage URL: AUTH_demo")
    parser.add_argument("--day", metavar="D", help="one day, as 2026-11-20")
    parser.add_argument("--from", dest="first", metavar="D", help="from this day on")
    parser.add_argument("--to", dest="last", metavar="D", help="up to and with this day")
    parser.add_argument("--json", action="store_true", help="for programs; sizes in bytes")
    add_where(parser)
    return parser


def format_usage(answer: Mapping[str, Any]) -> str:
    """The table, with a line of sums if there is more than one row."""
    rows = answer["usage"]
    if not rows:
        span = answer["from"] if answer["from"] == answer["to"] else f"{answer['from']} to {answer['to']}"
        return f"nothing was asked for, {span}\n"
    lines = [_COLUMNS, *(_line(row) for row in rows)]
    if len(rows) > 1:
        summed = {name: sum(row[name] for row in rows)
                  for name in ("reads", "writes", "lists", "deletes", "received_bytes", "sent_bytes")}
        lines.append(("all", "", "", "", "", *_moved(summed)))
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    return "".join("  ".join(text.ljust(width) if at < 2 else text.rjust(width)
                             for at, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip() + "\n" for line in lines)


def _line(row: Mapping[str, Any]) -> Sequence[str]:
    is_known = bool(row["seen_us"])
    held = (format_bytes(row["stored_bytes"]), str(row["objects"]), str(row["containers"])) if is_known else ("?", "?", "?")
    return row["day"], _shown(row["account"]), *held, *_moved(row)


def _shown(account: str) -> str:
    """A name must not move the cursor of a terminal."""
    return account if account.isprintable() else json.dumps(account)


def _moved(row: Mapping[str, Any]) -> Sequence[str]:
    return (str(row["reads"]), str(row["writes"]), str(row["lists"]), str(row["deletes"]),
            format_bytes(row["received_bytes"]), format_bytes(row["sent_bytes"]))


def format_bytes(count: int) -> str:
    """As bytes below 1000, else with three digits and a unit of 10^3, 10^6 ..., as disks and bills have them."""
    size, units = float(count), iter(("kB", "MB", "GB", "TB", "PB", "EB"))
    if count < 1000:
        return f"{count} B"
    while True:
        size, unit = size / 1000, next(units)
        if size < 999.5 or unit == "EB":
            return f"{size:.3g} {unit}" if size < 999.5 else f"{size:.0f} {unit}"

"""`holdfast status`: workers, devices, fill, journals and pending updates of the node, and what is wrong in plain words."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.admin import AdminClient
from common.errors import NotFound, TransportLost
from node.config import load_config
from node.files import find_running

HEALTHY, DEGRADED, DOWN = 0, 1, 2
_TIMEOUT_S = 15.0
_ABOUT = """\
How a running node is: first what is wrong or worth knowing and what to do about it, then its workers and devices."""
_AFTER = """\
Marks: !! error, a human acts; ! degraded, still serving; - worth knowing.
Device states: ok; full (writes are refused, deletes go on); not counted (takes writes, but reads do not rely on it: it has
just started, or came back empty or older); unusable (could not be opened); retired (its disk failed); unknown (its worker
does not answer).
JOURNAL: bytes still needed, and the segment now written. PENDING: listing entries that are still to be delivered.

Exit code: 0 healthy, 1 something needs attention, 2 no node answers."""


def status(argv: list[str]) -> int:
    """Print it. Returns 0 if all is well, 1 if something needs attention, 2 if no node answers. Raises `ConfigError`."""
    parser = argparse.ArgumentParser(prog="holdfast status", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="state directory of the node (its default: `holdfast up --help`)")
    parser.add_argument("--config", metavar="FILE", help="configuration file, instead of the one that would be found")
    parser.add_argument("--json", action="store_true", help="everything that is known, for programs")
    options = parser.parse_args(argv)
    root = load_config(options.config, os.environ, overrides={"node.data": options.data}).value.state_dir()
    try:
        facts = AdminClient.from_state(root, timeout_s=_TIMEOUT_S).get("/status")
    except (NotFound, TransportLost) as error:
        return _tell_down(root, str(error.fields.get("reason", error)), is_json=options.json)
    print(json.dumps(facts, indent=2) if options.json else format_status(facts), end="\n" if options.json else "")
    return HEALTHY if facts["is_healthy"] else DEGRADED


def format_status(facts: Mapping[str, Any]) -> str:
    """The answer of the admin API as tables, findings first."""
    out = [f"node {facts['node']} of cluster {facts['cluster']}: {'healthy' if facts['is_healthy'] else 'needs attention'}, "
           f"up {format_duration(facts['uptime_s'])}, version {facts['version']}\n",
           f"objects {facts['urls'].get('swift', '-')}   login {facts['urls'].get('auth', '-')}   "
           f"identity {facts['urls'].get('identity', '-')}   state {facts['state']}\n"]
    for finding in facts["findings"]:
        mark = {"error": "!!", "warning": "! ", "note": "- "}[finding["level"]]
        out.append(f"{mark} {finding['text']}\n   {finding['advice']}\n")
    out.append("\n" + format_table(("WORKER", "PID", "UP", "RESTARTS", "CONNECTIONS", "REQUESTS"),
                                   [_worker_row(worker) for worker in facts["workers"]]))
    out.append("\n" + format_table(("DEVICE", "WORKER", "STATE", "FILL", "FREE", "JOURNAL", "PENDING", "PATH"),
                                   [_device_row(device) for device in facts["devices"]]))
    return "".join(out)


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "".join(line.rstrip() + "\n" for line in lines)


def format_bytes(count: float | None) -> str:
    """"12.3 MiB"; "-" for an unknown count."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes all")


def format_duration(seconds: float) -> str:
    """"42s", "5m 2s", "3h 10m", "12d 4h"."""
    whole = int(seconds)
    for size, unit, small, below in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // small}{below}"
    return f"{whole}s"


def _worker_row(worker: Mapping[str, Any]) -> list[str]:
    state = format_duration(worker["uptime_s"]) if worker["is_ready"] else "down"
    state = "hung" if worker.get("is_hung") else state
    return [str(worker["worker"]), str(worker["pid"] or "-"), state, str(worker["restarts"]), str(worker.get("connections", "-")),
            str(worker.get("requests", "-"))]


def _device_row(device: Mapping[str, Any]) -> list[str]:
    fill, segments = device.get("fill"), device.get("segments")
    journal = "-" if segments is None else f"{format_bytes(device['live_bytes'])}, segment {segments}"
    return [device["name"], str(device["worker"]), device["state"], "-" if fill is None else f"{fill:.1%}",
            format_bytes(device.get("free_bytes")), journal, str(device.get("pending_updates", "-")), device["path"]]


def _tell_down(root: Path, reason: str, *, is_json: bool) -> int:
    pid = find_running(root)
    text, state = f"nothing runs in {root}", "down"
    if pid is not None:
        text, state = f"a node (process {pid}) starts, stops, or does not answer: {reason}", "not answering"
    if is_json:
        print(json.dumps({"is_healthy": False, "standing": state, "reason": text, "state": str(root)}, indent=2))
    else:
        print(text if pid is not None else f"{text}\n`holdfast up --data {root}` starts one", file=sys.stderr)
    return DOWN

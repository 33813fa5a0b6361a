"""Who holds a lease: a process, named so that others on the same machine can tell whether it still runs.

`host/boot/pid namespace/pid/start/random`. A process that is known to have ended loses its leases at once; of one that runs, hangs
or is on another machine nothing is known, and its leases run out.
"""
from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

_PROC = Path("/proc")


def make_owner() -> str:
    """Of this process."""
    pid = os.getpid()
    return "/".join((*_machine(), str(pid), _start_of(pid) or "0", secrets.token_hex(4)))


def has_ended(owner: str) -> bool:
    """True only if the process of that name is known to have ended."""
    *machine, pid, start, _ = owner.split("/") if owner.count("/") == 5 else ("", "", "")
    if tuple(machine) != _machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except PermissionError:                      # somebody else's, of whom /proc may hide everything
        return False
    except OSError:
        return True
    return _start_of(int(pid)) != start


def _machine() -> tuple[str, str, str]:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()[:8]
        namespace = os.readlink(_PROC / "self/ns/pid").strip("pid:[]")
    except OSError:
        boot, namespace = secrets.token_hex(4), "0"      # nobody is taken for ended
    return socket.gethostname().replace("/", "_")[:128], boot, namespace


def _start_of(pid: int) -> str | None:
    """When it started, in ticks since the boot; None for one that has ended, also if nobody asked for its exit code yet."""
    try:
        state, *fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in ("Z", "X") else fields[18]

"""What systemd is told of the node's life, if it started it with Type=notify: a datagram to the socket named in NOTIFY_SOCKET.

Source: systemd's documentation, sd_notify(3): lines of KEY=VALUE; a leading "@" names an abstract socket.
"""
from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from common.clock import SystemClock
from common.log import get_logger

START_MORE_S = 60                                # a start that goes on asks for so much more
_log = get_logger("node.notify")


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send `lines`; nothing if nobody asked. Never raises: a node serves without systemd as well."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.sendto("\n".join(lines).encode(), "\0" + path[1:] if path[0] == "@" else path)
    except OSError as error:
        _log.warning("systemd cannot be told", state=lines[0], error=error)


def notify_ready(status: str) -> None:
    """All workers serve."""
    notify("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")


def notify_starting() -> None:
    """Long journals take their time; what still starts shall not be killed."""
    notify(f"EXTEND_TIMEOUT_USEC={START_MORE_S * 1_000_000}")


def notify_reloading() -> None:
    """`notify_ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={int(SystemClock().monotonic_s() * 1e6)}")


def notify_stopping() -> None:
    """Requests that run may end."""
    notify("STOPPING=1")

"""The sockets that clients connect to: one per worker and address, all on one port, kept by the supervisor.

The kernel spreads connections over them (SO_REUSEPORT). Because the supervisor keeps each socket open, connections that wait
for a worker which just died are taken by its successor instead of being refused.
"""
from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from common.address import Address
from common.errors import ConfigError

_LISTEN_STATE = "0A"


def bind_listeners(address: Address, count: int) -> tuple[list[list[socket.socket]], Address]:
    """For each of `count` workers its bound sockets, and the address with the port that the kernel chose for port 0.

    Raises `ConfigError` with the process that has the port already, or why the address cannot be used.
    """
    made: list[socket.socket] = []
    try:
        places = _resolve(address)
        port = address.port
        per_worker: list[list[socket.socket]] = [[] for _ in range(count)]
        for family, host in places:
            _probe(family, host, port)
            for mine in per_worker:
                sock = _bind(family, host, port)
                made.append(sock)
                mine.append(sock)
                port = sock.getsockname()[1]
        return per_worker, Address(address.host, port)
    except OSError as error:
        for sock in made:
            sock.close()
        raise ConfigError(where="node.listen", reason=explain_bind_error(address, error)) from error


def check_free(address: Address) -> None:
    """Whether somebody could listen here, before anything is made that a refused start would leave behind. Raises `OSError`."""
    for family, host in _resolve(address):
        _probe(family, host, address.port)


def bind_again(sock: socket.socket) -> socket.socket:
    """A new socket at the place of one that is closed after this: what waited in the old one is refused, not left hanging."""
    name = sock.getsockname()
    return _bind(sock.family, name[0], name[1])


def explain_bind_error(address: Address, error: OSError) -> str:
    """A sentence for the operator: who is in the way, and what to do."""
    text = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {address}: {find_port_owner(address.port)} has the port; stop it, or choose another address"
    if error.errno == errno.EACCES:
        return f"cannot listen on {address}: ports below 1024 are for root; choose a higher one, such as :8080"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: no interface of this machine has this address"
    return f"cannot listen on {address}: {text}"


def find_port_owner(port: int) -> str:
    """"python (process 123)", as far as this user may see; else "another process"."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(link) in inodes:
                        return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return "another process"


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN_STATE and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _resolve(address: Address) -> list[tuple[int, str]]:
    if not address.host:
        return [(socket.AF_INET6, "::")] if socket.has_dualstack_ipv6() else [(socket.AF_INET, "0.0.0.0")]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(name[0])) for family, _, _, _, name in found))


def _probe(family: int, host: str, port: int) -> None:
    """SO_REUSEPORT would share the port with any other process of this user; without it the kernel says if one has it."""
    if port:
        with _socket(family, host) as sock:
            sock.bind((host, port))


def _bind(family: int, host: str, port: int) -> socket.socket:
    sock = _socket(family, host)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(family: int, host: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
    return sock

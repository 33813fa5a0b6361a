"""Where processes of a cluster listen and connect: unix sockets inside a node, TCP between nodes."""
from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_UNIX_PATH_BYTES_MAX = 107               # sun_path, less its NUL


class Connect(Protocol):
    """Makes one connection with the protocol that `factory` gives. Raises `OSError`."""

    async def __call__(self, factory: Callable[[], asyncio.BaseProtocol], /) -> None: ...


def unix_connector(path: Path) -> Connect:
    """To a worker of this node."""
    async def connect(factory: Callable[[], asyncio.BaseProtocol]) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with short_path(path) as name:
                sock.connect(name)                               # a unix socket connects at once or not at all
            await asyncio.get_running_loop().create_connection(factory, sock=sock)
        except BaseException:
            sock.close()
            raise
    return connect


def tcp_connector(host: str, port: int, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None) -> Connect:
    """To a worker of another node."""
    async def connect(factory: Callable[[], asyncio.BaseProtocol]) -> None:
        await asyncio.get_running_loop().create_connection(factory, host, port, ssl=tls, server_hostname=server_hostname)
    return connect


def bind_unix(path: Path) -> socket.socket:
    """A socket bound to `path`, which belongs to this user alone (0600) before anyone can connect. Raises `OSError`.

    A socket that a dead process left there is removed: who may listen is decided by the lock of the state directory.
    """
    if path.is_socket():
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with short_path(path) as name:
            sock.bind(name)
        path.chmod(0o600)                                        # connects are refused until listen(2)
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits into sockaddr_un, however deep the state directory lies."""
    text = os.fspath(path)
    if len(os.fsencode(text)) <= _UNIX_PATH_BYTES_MAX:
        yield text
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)

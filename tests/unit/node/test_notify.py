"""systemd is told when it asked to be, and nobody is disturbed when it did not or is gone."""
import os
import socket

import pytest

from node.notify import notify, notify_ready


@pytest.fixture(params=["path", "abstract"])
def told(request, tmp_path):
    """The environment that systemd would set, and what comes there."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@holdfast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name if name[0] == "/" else "\0" + name[1:])
        sock.setblocking(False)
        yield {"NOTIFY_SOCKET": name}, sock


def test_lines_arrive_as_one_datagram(told):
    environ, sock = told
    notify("READY=1", "STATUS=serves", environ=environ)
    assert sock.recv(4096) == b"READY=1\nSTATUS=serves"


def test_ready_names_the_process(told, monkeypatch):
    environ, sock = told
    monkeypatch.setenv("NOTIFY_SOCKET", environ["NOTIFY_SOCKET"])
    notify_ready("serves 127.0.0.1:8080")
    assert sock.recv(4096).decode().split("\n") == ["READY=1", "STATUS=serves 127.0.0.1:8080", f"MAINPID={os.getpid()}"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "/not/there"},
                                     {"NOTIFY_SOCKET": "/" + "x" * 200}])
def test_nobody_to_tell_is_no_error(environ):
    notify("READY=1", environ=environ)

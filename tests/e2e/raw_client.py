"""Bytes to a node and what comes back, without a client in between that would be too polite."""
from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.e2e.client_helpers import device_files, running
from tests.e2e.conftest import call, wait_until

USERS = ('[[auth.user]]', 'account = "demo"', 'user = "alice"', 'groups = [".admin"]', 'key = "wonder"',
         '[[auth.user]]', 'account = "other"', 'user = "carol"', 'groups = [".admin"]', 'key = "singer"')
MAX_FILE_BYTES = 4 << 20
WAIT_S = 30.0


class Answer:
    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, fields, body

    @property
    def text(self):
        return self.body.decode()


class Raw:
    """A node with two users and a small limit of the size of objects; a token of each user."""

    def __init__(self, node):
        self.node = node
        self.port = urlsplit(node.endpoint["urls"]["swift"]).port
        self.tokens = {}
        for user, key in (("demo:alice", "wonder"), ("other:carol", "singer")):
            status, _, fields = call("GET", node.endpoint["urls"]["auth"], **{"X-Auth-User": user, "X-Auth-Key": key})
            assert status == 200
            self.tokens[user] = fields["x-auth-token"]
        assert self.ask("PUT", "/v1/AUTH_demo/c", "Content-Length: 0").status == 201

    def head(self, method, path, *lines, user="demo:alice", version="1.1"):
        """The bytes of a head. user: None for no token."""
        token = [f"X-Auth-Token: {self.tokens[user]}"] if user else []
        return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *token, *lines, "", ""]).encode()

    @contextmanager
    def connection(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as sock:
            yield sock

    def ask(self, method, path, *lines, body=b"", user="demo:alice"):
        """One request, its answer."""
        return self.send(self.head(method, path, *lines, user=user) + body, method=method)

    def send(self, data, *, method="PUT"):
        """Bytes in, the first answer out, interim ones left out."""
        with self.connection() as sock:
            send_all(sock, data)
            with sock.makefile("rb") as reader:
                return read_answer(reader, method=method)

    def put(self, path, body):
        assert self.ask("PUT", f"/v1/AUTH_demo/{path}", f"Content-Length: {len(body)}", body=body).status == 201

    def get(self, path):
        """Body, or None for 404."""
        found = self.ask("GET", f"/v1/AUTH_demo/{path}")
        assert found.status in (200, 204, 404)
        return None if found.status == 404 else found.body

    @contextmanager
    def nothing_changes(self):
        """What is refused is not visible, is not listed and leaves no file behind, not even one that is only open."""
        files, names, held = device_files(self.node), self.get("c"), self.get("c/held")
        yield
        assert self.get("c") == names and self.get("c/held") == held
        wait_until(lambda: not open_files(self.node), "half a body is let go")
        # files may go meanwhile: bodies that earlier requests displaced; none may come
        assert not set(device_files(self.node)) - set(files)


def open_files(node, is_one=lambda path: path.endswith("(deleted)")):
    """Files on devices that a worker still has open; by default those without a name: bodies under way."""
    found = []
    for pid in node.pids["workers"]:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
            except FileNotFoundError:
                continue                                   # closed between the two lines
            if target.startswith(f"{node.root}/devices/") and is_one(target):
                found.append(target)
    return found


@contextmanager
def raw_node(directory):
    with running(directory, "http", *USERS, "[limits]", f"max_file_size = {MAX_FILE_BYTES}") as node:
        raw = Raw(node)
        raw.put("c/held", b"what was there before")
        yield raw


def send_all(sock, data):
    """Send, though the other end may have had enough before the end."""
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def read_answer(reader, *, method="GET"):
    """The next final answer; None if the connection ends without one."""
    while True:
        try:
            line = reader.readline()
        except ConnectionResetError:
            return None
        if not line:
            return None
        status = int(line.split()[1])
        fields = {}
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, value = line.rstrip(b"\r\n").decode("latin-1").split(": ", 1)
            assert name.lower() not in fields, f"{name} twice"
            fields[name.lower()] = value
        if status != 100:
            break
    has_body = method != "HEAD" and status not in (204, 304)
    return Answer(status, fields, reader.read(int(fields["content-length"])) if has_body else b"")


def is_closed(reader):
    """Nothing more comes."""
    try:
        return reader.read() == b""
    except ConnectionResetError:
        return True

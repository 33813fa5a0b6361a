"""A real node: its own state directory, ports that the kernel chooses, processes that end with the test."""
from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0                            # for what happens in milliseconds on an idle machine


class Node:
    """One node under `root`; `endpoint` is what endpoint.json says now."""

    def __init__(self, root: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.root, self.arguments = root, arguments
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        self.environ = {**clean, "HOME": str(root.parent), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **(environ or {})}

    def run(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """A `holdfast` command, to its end."""
        return subprocess.run([sys.executable, "-m", "cli", *arguments], env=self.environ, cwd=self.root.parent, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)

    def command_up(self) -> tuple[str, ...]:
        """Later arguments win over earlier ones."""
        return ("up", "--data", str(self.root), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *self.arguments)

    def up(self) -> str:
        """Start it; what it printed."""
        done = self.run(*self.command_up(), "--detach")
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def down(self) -> None:
        """Stop it."""
        done = self.run("down", "--data", str(self.root))
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.log()}"

    def kill(self) -> None:
        """No process is left, however the test ended."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(self.pids["supervisor"], signal.SIGKILL)

    @property
    def endpoint(self) -> dict[str, Any]:
        return json.loads((self.root / "endpoint.json").read_text())

    @property
    def pids(self) -> dict[str, Any]:
        return self.endpoint["pids"]

    def all_pids(self) -> list[int]:
        return [self.pids["supervisor"], self.pids["zygote"], *self.pids["workers"]]

    def status(self) -> dict[str, Any]:
        """The answer of the admin API."""
        return json.loads(self.run("status", "--data", str(self.root), "--json").stdout)

    def log(self) -> str:
        path = self.root / "holdfast.log"
        return path.read_text() if path.exists() else ""

    def get(self, url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        return call("GET", url, **headers)

    def login(self) -> Client:
        """A client with the token of the demo user."""
        demo = self.endpoint["demo"]
        status, _, fields = self.get(self.endpoint["urls"]["auth"], **{"X-Auth-User": demo["user"], "X-Auth-Key": demo["key"]})
        assert status == 200
        return Client(fields["x-storage-url"], fields["x-auth-token"])


class Client:
    """Requests with a token, on new connections."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        status, answer, _ = call(method, f"{self.url}{path}", body, **{"X-Auth-Token": self.token, **headers})
        return status, answer


def call(method: str, url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body, fields by lower-case name. Raises `OSError` when there is no answer."""
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=WAIT_S) as answer:
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {name.lower(): value for name, value in error.headers.items()}


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Returns once `is_so` gives something true; fails after a minute."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


def is_running(pid: int) -> bool:
    """False for one that ended, also when nobody has asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def make_node(tmp_path) -> Iterator[Callable[..., Node]]:
    """Nodes that are killed when the test is over; not yet started."""
    made: list[Node] = []

    def make(*arguments: str, name: str = "state", environ: dict[str, str] | None = None) -> Node:
        made.append(Node(tmp_path / name, *arguments, environ=environ))
        return made[-1]

    yield make
    for node in made:
        node.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Node]:
    """One running node for the tests of a file that leave it as they found it."""
    node = Node(tmp_path_factory.mktemp("node") / "state")
    node.up()
    yield node
    try:
        node.down()
    finally:
        node.kill()

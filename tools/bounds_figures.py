"""Memory of a node under clients that do not get on: `python -m tools.bounds_figures`, for docs/performance.md, "Bounds".

Each figure is growth of PSS (shared pages once) over the same node at rest, over all its processes. Kernel memory, such as socket
buffers, is no part of it. `--containers N` adds a node that holds N containers, which takes minutes.
"""
from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.procfs import ProcessTree
from bench.target import Login, Target

ROOT = Path(__file__).parent.parent
MIB = 1 << 20
CONNECTIONS = 1_000
STUCK_UPLOADS_BYTES_MAX = 256 * MIB          # 1 000 together
STUCK_ONE_BYTES_MAX = MIB                    # one reader or writer
IDLE_BYTES_MAX = 50 * MIB                    # 1 000 connections
CONTAINERS_BYTES_MAX = 400 * MIB             # the whole node with 100 000 of them
_ANNOUNCED_BYTES = 5_000_000
_SETTLE_S, _SETTLED_PAUSE_S = 20.0, 0.5
_STILL_S = 4.0                               # the node judges after one second who stalls, after five who has to go
_DOWNLOAD_BYTES = 64 * MIB
_MAKERS, _ATTEMPTS = 8, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One bound and what was found."""

    name: str
    bytes_found: int
    bytes_max: int
    note: str = ""

    @property
    def is_kept(self) -> bool:
        return self.bytes_found <= self.bytes_max

    def __str__(self) -> str:
        verdict = "ok" if self.is_kept else "TOO MUCH"
        return f"{self.name}: {self.bytes_found / MIB:.1f} MiB, at most {self.bytes_max / MIB:.0f}: {verdict}{self.note}"


def measure_idle(target: Target, count: int = CONNECTIONS) -> Figure:
    """Connections that have had one answer and ask for nothing more."""
    tree = _tree_of(target)
    before = settled_pss(tree)
    with _connections(target, count) as socks:
        for sock in socks:
            sock.sendall(_head(target, "HEAD", ""))
        for sock in socks:
            sock.recv(4096)
        after = settled_pss(tree)
    return Figure(name=f"{count} idle connections", bytes_found=after - before, bytes_max=IDLE_BYTES_MAX)


def measure_stuck_uploads(target: Target, container: str, sent_bytes: int, count: int = CONNECTIONS) -> Figure:
    """Uploads that announced 5 MB, sent `sent_bytes` each as far as the node took them, and stand still; all at once."""
    tree = _tree_of(target)
    before = settled_pss(tree)
    with _connections(target, count) as socks:
        pending = {sock: memoryview(_head(target, "PUT", f"/{container}/stuck{n}", f"Content-Length: {_ANNOUNCED_BYTES}")
                                    + bytes(sent_bytes)) for n, sock in enumerate(socks)}
        most = _push(pending, tree)
        answers = [status for status in map(_status_of, socks) if status]
    return Figure(name=f"{count} uploads stuck after {sent_bytes} bytes", bytes_found=most - before,
                  bytes_max=min(STUCK_UPLOADS_BYTES_MAX, count * STUCK_ONE_BYTES_MAX), note=_describe(answers))


def measure_stuck_readers(target: Target, path: str, count: int = 100) -> Figure:
    """Clients that ask for a large object and read nothing of it."""
    tree = _tree_of(target)
    before = settled_pss(tree)
    with _connections(target, count, receive_bytes=65_536) as socks:
        for sock in socks:
            sock.sendall(_head(target, "GET", path))
        after = settled_pss(tree)
    return Figure(name=f"{count} downloads of {_DOWNLOAD_BYTES // MIB} MiB that nobody reads", bytes_found=after - before,
                  bytes_max=count * STUCK_ONE_BYTES_MAX)


def make_containers(target: Target, count: int, say: Callable[[str], None]) -> None:
    """Through HTTP, some at a time; what is answered 503 is asked again. Raises `RuntimeError` for other answers."""
    fields = {"X-Auth-Token": target.token, "Content-Length": "0"}

    def make(first: int) -> None:
        connection = http.client.HTTPConnection(target.address, target.port, timeout=60)
        for number in range(first, count, _MAKERS):
            for attempt in range(_ATTEMPTS):
                connection.request("PUT", f"{target.path}/box{number:06d}", headers=fields)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 503:
                    break
                say(f"container {number}: 503 {answer.headers.get('X-Error-Code', '')}")
                time.sleep(attempt)
            if answer.status // 100 != 2:
                raise RuntimeError(f"PUT of container {number} answered {answer.status}")
            if number and number % 10_000 == 0:
                say(f"{number} containers")
        connection.close()

    with ThreadPoolExecutor(_MAKERS) as pool:
        list(pool.map(make, range(_MAKERS)))


def settled_pss(tree: ProcessTree) -> int:
    """PSS once two looks differ by less than a MiB, or after 20 s the last one."""
    deadline_s = time.monotonic() + _SETTLE_S
    last = _pss(tree)
    while time.monotonic() < deadline_s:
        time.sleep(_SETTLED_PAUSE_S)
        now = _pss(tree)
        if abs(now - last) < MIB:
            return now
        last = now
    return last


@contextmanager
def running_node(root: Path, *arguments: str) -> Iterator[Target]:
    """A node of this checkout on ports that are free, logged in to. Raises `RuntimeError` if it does not start."""
    run_cli("up", "--data", str(root), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--detach", *arguments)
    try:
        yield log_in(root)
    finally:
        run_cli("down", "--data", str(root))


def log_in(root: Path) -> Target:
    """As the demo user of the node that runs in `root`."""
    endpoint = json.loads((root / "endpoint.json").read_text())
    demo = endpoint["demo"]
    return Target(Login(auth_url=endpoint["urls"]["auth"], user=demo["user"], key=demo["key"],
                        root_pid=endpoint["pids"]["supervisor"]))


def run_cli(*arguments: str) -> str:
    """What a `holdfast` command prints. Raises `RuntimeError`."""
    done = subprocess.run([sys.executable, "-m", "cli", *arguments], cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"holdfast {' '.join(arguments)}: {done.stderr or done.stdout}")
    return done.stdout


def _push(pending: dict[socket.socket, memoryview], tree: ProcessTree) -> int:
    """Send what the node takes until it has taken no more for a while; the highest PSS on the way."""
    most, last_progress_s = 0, time.monotonic()
    for sock in pending:
        sock.setblocking(False)
    while time.monotonic() - last_progress_s < _STILL_S:
        moved = 0
        for sock, data in list(pending.items()):
            try:
                count = sock.send(data[:262_144])
            except BlockingIOError:
                continue
            except OSError:                      # refused: its answer is counted later
                del pending[sock]
                continue
            moved += count
            pending[sock] = data[count:]
            if not pending[sock]:
                del pending[sock]
        if moved:
            last_progress_s = time.monotonic()
        else:
            time.sleep(0.05)
        most = max(most, _pss(tree))
    return most


def _status_of(sock: socket.socket) -> str:
    """Of an answer that is here already, and whether it says when to come again; else ""."""
    try:
        data = sock.recv(4096)
    except OSError:
        return ""
    if not data.startswith(b"HTTP/1.1 "):
        return ""
    return data.split(b" ", 2)[1].decode() + (" with Retry-After" if b"\r\nRetry-After: " in data else "")


def _describe(answers: list[str]) -> str:
    counts = ", ".join(f"{answers.count(status)} x {status}" for status in sorted(set(answers)))
    return f" (answered: {counts or 'none'})"


def _head(target: Target, method: str, path: str, *fields: str) -> bytes:
    lines = (f"{method} {target.path}{path} HTTP/1.1", f"Host: {target.host}", f"X-Auth-Token: {target.token}", *fields, "", "")
    return "\r\n".join(lines).encode()


@contextmanager
def _connections(target: Target, count: int, *, receive_bytes: int | None = None) -> Iterator[list[socket.socket]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 256:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + 256, hard), hard))
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket()
            socks.append(sock)
            if receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.settimeout(30)
            sock.connect((target.address, target.port))
        yield socks
    finally:
        for sock in socks:
            sock.close()


def _tree_of(target: Target) -> ProcessTree:
    assert target.root_pid is not None
    return ProcessTree(target.root_pid)


def _pss(tree: ProcessTree) -> int:
    found = tree.pss_bytes()
    if found is None:
        raise RuntimeError("PSS of the node may not be read by this user")
    return found


def _measure_clients(base: Path) -> list[Figure]:
    figures = []
    with running_node(base / "idle") as target:
        figures.append(measure_idle(target))
        print(figures[-1], flush=True)
    for sent_bytes in (100, 60_000, 250_000, 900_000, 3_000_000):
        with running_node(base / f"stuck-{sent_bytes}") as target:           # its own: what a heap has freed may stay in it
            target.request("PUT", "/c")
            figures.append(measure_stuck_uploads(target, "c", sent_bytes))
            print(figures[-1], flush=True)
    with running_node(base / "readers") as target:
        target.request("PUT", "/c")
        target.request("PUT", "/c/large", os.urandom(MIB) * (_DOWNLOAD_BYTES // MIB))
        figures.append(measure_stuck_readers(target, "/c/large"))
        print(figures[-1], flush=True)
    return figures


def _measure_containers(root: Path, count: int) -> list[Figure]:
    figures: list[Figure] = []
    for when in ("after they were made", "after a restart"):
        with running_node(root) as target:
            if not figures:
                make_containers(target, count, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
            tree = _tree_of(target)
            figures.append(Figure(name=f"a node with {count} containers, {when}", bytes_found=settled_pss(tree),
                                  bytes_max=CONTAINERS_BYTES_MAX, note=f" (RSS {tree.rss_bytes() / MIB:.0f} MiB)"))
            print(figures[-1], flush=True)
    return figures


def main(argv: list[str] | None = None) -> int:
    """Print the figures; 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m tools.bounds_figures", description=__doc__)
    parser.add_argument("--containers", type=int, default=0, metavar="N",
                        help="also with N containers; 100000 is the bound's number")
    parser.add_argument("--only-containers", action="store_true", help="nothing else")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="holdfast-bounds-") as base:
        figures = [] if options.only_containers else _measure_clients(Path(base))
        if options.containers:
            figures += _measure_containers(Path(base) / "containers", options.containers)
    return 0 if all(figure.is_kept for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""A process that has imported everything a worker needs and waits: a worker is a fork of it, ready within milliseconds.

It has one thread and no event loop, so that a fork is clean. It is executed, not forked, by the supervisor, and ends with it;
the workers end with the zygote. Memory that the imports took is shared by all workers (`gc.freeze` keeps it so).

    request: length u32, JSON {"worker", ...} with the worker's sockets as SCM_RIGHTS;   answer: a JSON line
    {"forked": pid, "worker": n} or {"exited": pid, "code": exit code, negative for a signal}
"""
from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

LENGTH = struct.Struct(">I")
FDS_MAX = 64
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
RunWorker = Callable[[Mapping[str, Any], list[socket.socket]], int]


def main() -> None:
    """`python -m node.zygote REQUESTS ANSWERS PARENT`: a socket, a pipe, a process id. Ends with the supervisor."""
    requests, answers, parent = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    die_with_parent(parent)
    name_process("holdfast-zygote")
    from node.worker import run_worker

    allow_files()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)     # rows in memory are many and no garbage: the usual 700 cost 150 us per PUT
    serve(socket.socket(fileno=requests), answers, run_worker)


def serve(requests: socket.socket, answers: int, run_worker: RunWorker) -> None:
    """Fork on request, report who ended, until the other end closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)    # a terminal sends them to the whole group; the supervisor decides
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests.fileno(), wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _report_ended(answers)
        if requests.fileno() in ready:
            request = _receive(requests)
            if request is None:
                return
            _fork(*request, run_worker, answers, (requests.fileno(), wake, woken, answers))


def send_request(control: socket.socket, request: Mapping[str, object], fds: list[int]) -> None:
    """The supervisor's side of a request. Raises `OSError`."""
    data = json.dumps(request).encode()
    socket.send_fds(control, [LENGTH.pack(len(data))], fds)
    control.sendall(data)


def _receive(control: socket.socket) -> tuple[Mapping[str, Any], list[int]] | None:
    head, fds, _, _ = socket.recv_fds(control, LENGTH.size, FDS_MAX)
    if not head:
        return None
    head += _read_exactly(control, LENGTH.size - len(head))
    return json.loads(_read_exactly(control, *LENGTH.unpack(head))), list(fds)


def _read_exactly(control: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = control.recv(count - len(data))
        if not piece:
            raise SystemExit(0)
        data += piece
    return data


def _report_ended(answers: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _answer(answers, {"exited": pid, "code": os.waitstatus_to_exitcode(status)})


def _answer(answers: int, message: Mapping[str, object]) -> None:
    try:
        os.write(answers, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        raise SystemExit(0) from None            # the supervisor is gone


def _fork(request: Mapping[str, Any], fds: list[int], run_worker: RunWorker, answers: int, mine: tuple[int, ...]) -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        _answer(answers, {"forked": pid, "worker": request["worker"]})
        return
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):          # not SIGHUP: a terminal that closes sends it to all of us
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        for fd in mine:
            os.close(fd)
        name_process(f"holdfast-w{request['worker']}")
        code = run_worker(request, [socket.socket(fileno=fd) for fd in fds])
    except BaseException:                        # the edge: no worker may return into the zygote's loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when `parent` ends: no orphan keeps a device locked."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:                   # it ended before we asked
        os._exit(0)


def allow_files() -> None:
    """As many open files as the system lets us have: a connection is one, and the usual soft limit of 1024 is for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def give_memory_back() -> None:
    """What was freed goes back to the system now: a replay reads whole segments, and the heap would keep their places."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)       # glibc's
    if trim is not None:
        trim(0)


def name_process(name: str) -> None:
    """What ps and top show, 15 characters."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


if __name__ == "__main__":
    main()

"""The zygote as the supervisor sees it: asks for forks, tells who ended, and notices when the zygote itself is gone."""
from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import TransportLost
from node.zygote import send_request

ROOT = Path(__file__).resolve().parent.parent          # of the packages, wherever they are installed
# Few arenas: a process whose threads allocate in arenas of their own keeps what it freed, up to 64 MiB each.
# Buffers of a MiB come from the heap and stay there: mapping and unmapping each costs 256 page faults, more than the rest of
# what is done with it. A whole segment, which compaction reads at once, is mapped: a hole of 16 MiB would stay. Up to 32 MiB of
# free heap are kept per worker.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
_START = "import sys; sys.path.insert(0, sys.argv.pop()); from node.zygote import main; main()"


class Spawner:
    """One zygote at a time. on_lost: the zygote is gone, and with it every worker."""

    def __init__(self, *, on_exit: Callable[[int, int], None], on_lost: Callable[[], None]) -> None:
        """on_exit: called with process id and exit code (negative: the signal) of each worker that ended."""
        self._on_exit, self._on_lost = on_exit, on_lost
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._reading: asyncio.Task[None] | None = None
        self._transport: asyncio.ReadTransport | None = None
        self._forked: dict[int, asyncio.Future[int]] = {}

    @property
    def pid(self) -> int | None:
        """Process id of the zygote."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Execute a zygote; it serves when its imports are done, what is asked before waits. Raises `OSError`."""
        self._requests, theirs = socket.socketpair()
        answers, their_answers = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(          # noqa: ASYNC220 - blocks for a millisecond, and is no child of the loop
                [sys.executable, "-P", "-c", _START, str(theirs.fileno()), str(their_answers), str(os.getpid()), str(ROOT)],
                pass_fds=(theirs.fileno(), their_answers), stdin=subprocess.DEVNULL, env={**os.environ, **_ENVIRONMENT})
        finally:
            theirs.close()
            os.close(their_answers)
        reader = asyncio.StreamReader()
        pipe = os.fdopen(answers, "rb", 0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._reading = asyncio.create_task(self._read(reader), name="zygote answers")

    async def fork(self, worker: int, request: Mapping[str, object], sockets: Sequence[socket.socket]) -> int:
        """Process id of a new worker, which has copies of `sockets`. Raises `TransportLost` if the zygote is gone."""
        if self._requests is None or worker in self._forked:
            raise TransportLost(peer="zygote", reason="not running")
        future = self._forked[worker] = asyncio.get_running_loop().create_future()
        try:
            send_request(self._requests, {**request, "worker": worker}, [sock.fileno() for sock in sockets])
            return int(await future)
        except OSError as error:
            raise TransportLost(peer="zygote", reason=str(error)) from error
        finally:
            self._forked.pop(worker, None)

    async def close(self) -> None:
        """End the zygote, and with it what workers are left."""
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._take(json.loads(line))
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        for future in self._forked.values():
            if not future.done():
                future.set_exception(TransportLost(peer="zygote", reason="it ended"))
        if self._process is not None:
            self._process.wait()                       # its pipe is closed, so it has ended or is about to
        self._on_lost()

    def _take(self, message: Mapping[str, Any]) -> None:
        if "exited" in message:
            self._on_exit(message["exited"], message["code"])
            return
        future = self._forked.get(message["worker"])
        if future is not None and not future.done():
            future.set_result(message["forked"])

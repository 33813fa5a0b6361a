"""The load generator for machines without a C compiler: what bench/load.c does, in Python. `python -m bench.python_load < JOB`.

It takes more CPU for a request than a fast server does, so rates and latencies with it are those of the client; errors, checks and
server CPU per operation keep their meaning. Every body is compared, because it is read into memory anyway.
"""
from __future__ import annotations

import asyncio
import mmap
import random
import sys
import time

from bench.job import RANDOM, Job, LoadResult, Op, OpResult, encode_result, parse_job
from bench.ratios import find_percentile
from common.clock import SystemClock

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES_MAX = 1 << 16
_BROKEN_IN_A_ROW_MAX = 1000                    # then the server is taken for dead


class _Broken(Exception):
    """The connection is of no use any more; `counter` names the field of the result that counts it."""

    def __init__(self, counter: str) -> None:
        super().__init__(counter)
        self.counter = counter


class _Tally:
    """Of one op."""

    def __init__(self, op: Op) -> None:
        self.op = op
        self.issued = self.errors = self.bytes = 0
        self.took_s: list[float] = []

    def result(self, elapsed_s: float) -> OpResult:
        ordered = sorted(self.took_s)
        p50, p99, longest = (round(find_percentile(ordered, share) * 1e3, 3) for share in (0.5, 0.99, 1.0))
        return OpResult(method=self.op.method, issued=self.issued, count=len(ordered), errors=self.errors, bytes=self.bytes,
                        rate=len(ordered) / elapsed_s, p50_ms=p50, p99_ms=p99, max_ms=longest)


class _Request:
    """One request: what to send, and what has to come."""

    def __init__(self, job: Job, tally: _Tally, number: int) -> None:
        self.tally, self.body_at, self.expected = tally, -1, -1
        method, path = tally.op.method, f"{tally.op.prefix}{number:010d}"
        if job.pages:
            self.expected, path = job.pages[number % len(job.pages)]
        elif method in ("GET", "HEAD"):
            self.expected = job.body_bytes
        if job.body_fd >= 0 and not job.pages:
            self.body_at = number % job.variant_count * job.variant_step
        head = f"{method} {path} HTTP/1.1\r\nHost: {job.host}\r\nX-Auth-Token: {job.token}\r\n"
        if method == "PUT":
            head += f"Content-Type: application/octet-stream\r\nContent-Length: {job.body_bytes}\r\n"
        self.head = f"{head}\r\n".encode()


class PythonLoad:
    """One run of a job."""

    def __init__(self, job: Job) -> None:
        self._job, self._clock, self._random = job, SystemClock(), random.Random(job.seed)
        self._tallies = [_Tally(op) for op in job.ops]
        self._counts = dict.fromkeys(("ok", "failed", "bytes", "broken", "timeouts", "wrong_length", "wrong_body", "checked"), 0)
        self._statuses: dict[str, int] = {}
        self._broken_in_a_row = 0
        length = job.body_bytes + (job.variant_count - 1) * job.variant_step
        self._bodies = memoryview(mmap.mmap(job.body_fd, length, prot=mmap.PROT_READ) if job.body_fd >= 0 and length else b"")

    async def run(self) -> LoadResult:
        """To the end of the window and of what is in flight then."""
        begin_s = self._clock.monotonic_s()
        self._window_s = self._last_s = begin_s + self._job.warmup
        self._stop_s = self._window_s + self._job.seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(self._job.connections):
                group.create_task(self._connection())
        end_s = self._clock.monotonic_s()
        is_short = self._job.is_drained or end_s < self._stop_s
        elapsed_s = max(self._last_s - self._window_s if is_short else self._job.seconds, 1e-9)
        return LoadResult(elapsed_s=elapsed_s, total_s=end_s - begin_s, client_cpu_s=time.process_time(), statuses=self._statuses,
                          ops=tuple(tally.result(elapsed_s) for tally in self._tallies), **self._counts)

    def _next_request(self) -> _Request | None:
        """None when the keys are used up."""
        is_second = len(self._tallies) == 2 and self._random.random() >= self._job.ops[0].share
        tally = self._tallies[is_second]
        op = tally.op
        if op.order != RANDOM and op.count and tally.issued >= op.count and not self._job.pages:
            return None
        offset = self._random.randrange(op.count) if op.order == RANDOM else tally.issued
        tally.issued += 1
        return _Request(self._job, tally, op.first + offset)

    async def _connection(self) -> None:
        """One request after the other, on a connection that is opened again when it breaks."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self._clock.monotonic_s() < self._stop_s and self._broken_in_a_row < _BROKEN_IN_A_ROW_MAX:
            request = self._next_request()
            if request is None:
                break
            begin_s = self._clock.monotonic_s()
            try:
                async with asyncio.timeout(self._job.timeout):
                    if streams is None:
                        streams = await asyncio.open_connection(self._job.address, self._job.port, limit=_HEAD_BYTES_MAX)
                    is_ok, may_stay = await self._exchange(request, *streams)
                self._broken_in_a_row = 0
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, _Broken) as error:
                is_ok = may_stay = False
                self._count_broken(error)
                await asyncio.sleep(0.001)           # a dead server is not asked in a tight loop
            self._record(request, is_ok, begin_s)
            if streams is not None and not may_stay:
                streams[1].close()
                streams = None
        if streams is not None:
            streams[1].close()

    async def _exchange(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bool, bool]:
        """Send, receive, compare: is it as it should be, may the connection be used again."""
        writer.write(request.head)
        if request.tally.op.method == "PUT":
            body = self._body(request)
            for at in range(0, len(body), _CHUNK_BYTES):
                writer.write(body[at:at + _CHUNK_BYTES])
                await writer.drain()
        status, fields = await _read_head(reader)
        length = int(fields.get("content-length", "-1"))
        self._statuses[str(status)] = self._statuses.get(str(status), 0) + 1
        is_right = True
        if request.tally.op.method != "HEAD" and status not in (204, 304):
            if length < 0:
                raise _Broken("broken")              # chunked, or up to the end of the connection: no answer of ours is
            is_right = await self._read_body(request, reader, length, is_compared=status // 100 == 2)
        is_ok = status // 100 == 2
        if is_ok and request.expected not in (-1, length):
            self._counts["wrong_length"] += 1
            is_ok = False
        elif is_ok and not is_right:
            self._counts["wrong_body"] += 1
            is_ok = False
        return is_ok, fields.get("connection", "").lower() != "close"

    async def _read_body(self, request: _Request, reader: asyncio.StreamReader, length: int, *, is_compared: bool) -> bool:
        """False if it is not the one that was written."""
        body = self._body(request) if is_compared and request.body_at >= 0 else None
        self._counts["checked"] += body is not None
        got, is_right = 0, True
        while got < length:
            chunk = await reader.read(min(_CHUNK_BYTES, length - got))
            if not chunk:
                raise _Broken("wrong_length")
            is_right = is_right and (body is None or body[got:got + len(chunk)] == chunk)
            got += len(chunk)
        return is_right

    def _body(self, request: _Request) -> memoryview:
        return self._bodies[request.body_at:request.body_at + self._job.body_bytes]

    def _count_broken(self, error: Exception) -> None:
        counter = error.counter if isinstance(error, _Broken) else "timeouts" if isinstance(error, TimeoutError) else "broken"
        self._counts[counter] += 1
        self._broken_in_a_row += 1

    def _record(self, request: _Request, is_ok: bool, begin_s: float) -> None:
        now_s, tally = self._clock.monotonic_s(), request.tally
        size = self._job.body_bytes if tally.op.method == "PUT" else max(request.expected, 0) if tally.op.method == "GET" else 0
        self._counts["ok" if is_ok else "failed"] += 1
        self._counts["bytes"] += size if is_ok else 0
        tally.errors += not is_ok
        if now_s < self._window_s or (now_s > self._stop_s and not self._job.is_drained):
            return
        self._last_s = now_s
        if is_ok:
            tally.took_s.append(now_s - begin_s)
            tally.bytes += size


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and fields by lower-case name; answers 1xx are passed over."""
    while True:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        if status >= 200:
            return status, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}


def main() -> None:
    """Job from standard input, result to standard output."""
    print(encode_result(asyncio.run(PythonLoad(parse_job(sys.stdin.read())).run())))


if __name__ == "__main__":
    main()

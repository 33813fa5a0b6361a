"""One system under measurement: what is written for it to read, timed windows, checks of what it stored, and cleaning up."""
from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from bench.bodies import VARIANT_COUNT, VARIANT_STEP, Bodies
from bench.generator import Generator
from bench.job import NEXT, RANDOM, Job, LoadResult, Op, OpResult
from bench.procfs import ProcessTree, Watch
from bench.target import PAGE_ROWS, Target, page_query
from bench.workloads import KIB, LIST, MIB, READ_SHARE, SIZES, Workload
from common.errors import BenchFailed

_WINDOW_BYTES_MAX = 4 << 30                                       # of one window of PUTs of 1 MiB and more: disks end
_FILL_S = 600.0
_CHECK_EVERY = 64
_WARMUP_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One window of one workload. The first op is the one that most operations were."""

    workload: str
    size_bytes: int
    connections: int
    rate: float                              # operations per second; of a listing, pages
    mb_per_s: float                          # of bodies, 10^6 bytes
    p50_ms: float
    p99_ms: float
    max_ms: float
    elapsed_s: float
    errors: int
    error_text: str
    checks: int                              # bodies, rows and answers that were compared
    failed_checks: tuple[str, ...]
    cpu_us_per_op: float | None              # of the server; None if its processes are not known
    server_cores: float | None
    client_cpu_us_per_op: float
    other_cores: float | None                # of strangers, while this was measured
    rss_bytes_max: int | None
    pss_bytes: int | None
    ops: tuple[OpResult, ...]

    @property
    def is_good(self) -> bool:
        """Figures with errors are no result."""
        return not self.errors and not self.failed_checks and any(op.count for op in self.ops)


@dataclass(slots=True)
class _Checks:
    done: int = 0
    failed: list[str] = field(default_factory=list)

    def note(self, problem: str | None) -> None:
        self.done += 1
        if problem is not None:
            self.failed.append(problem)


@dataclass(slots=True)
class _Keys:
    """Of one container: [first, next) are there, as far as we know."""

    first: int = 0
    next: int = 0


class Session:
    """Use it as a context: at its end everything that it wrote is deleted."""

    def __init__(self, target: Target, generator: Generator, *, seconds: float, seed: int = 1, names: int = 10_000,
                 objects: int = 2000, say: Callable[[str], None] = lambda _: None) -> None:
        """names: rows of the container that is listed. objects: of 4 KiB to read from; fewer of the larger ones.

        say: takes a line about what goes on.
        """
        self._target, self._generator, self._seconds, self._names, self._say = target, generator, seconds, names, say
        self._tree = ProcessTree(target.root_pid) if target.root_pid is not None else None
        self._readable = {4 * KIB: objects, MIB: max(objects // 32, 2), 64 * MIB: max(objects // 500, 2)}
        self._random = random.Random(seed)
        self._bodies = Bodies()
        self._name = f"holdfast-bench-{secrets.token_hex(4)}"
        self._keys: dict[tuple[str, int], _Keys] = {}             # by (what for, size)
        self._pages: tuple[tuple[int, str], ...] = ()
        self._is_unsure = False              # a window was broken off: nobody knows which keys it wrote

    def prepare(self, workload: Workload) -> None:
        """Write what it reads or deletes, outside of any window. Raises `BenchFailed`."""
        size = workload.size_bytes
        if workload.verb in ("put", "mixed"):
            self._container("put", size)
        if workload.verb in ("get", "head", "mixed"):
            self._fill("get", size, self._readable[size])
        if workload.verb == "delete":
            self._fill("put", size, self._delete_count(size))
        if workload.verb == LIST:
            self._fill("list", 0, self._names)

    def measure(self, workload: Workload) -> Measured:
        """One window and its checks. Raises `BenchFailed` if there is nothing to measure."""
        self.prepare(workload)
        checks = _Checks()
        if workload.verb == LIST:
            self._walk(checks)
        job = self._job(workload)
        self._is_unsure = True
        with Watch(self._tree) as watch:
            result = self._generator.run(job)
        self._is_unsure = False
        if not self._note_written(workload, result) and not result.failed:
            checks.failed.append("not one operation")
        self._check(workload, job, result, checks)
        if workload.size_bytes >= MIB and workload.verb in ("put", "mixed"):
            self._empty("put", workload.size_bytes)               # disks end
        return _sum_up(workload, result, watch, checks)

    def close(self) -> list[str]:
        """Delete everything; sentences about what would not go."""
        problems = []
        try:
            for what, size in self._keys:
                self._empty(what, size)
                path = f"/{self._container_name(what, size)}"
                status = self._target.request("DELETE", path).status
                if status != 204 and self._is_unsure:
                    self._empty_by_listing(what, size)
                    status = self._target.request("DELETE", path).status
                if status != 204:
                    problems.append(f"{path}: deleting the container, when all its objects were deleted, answered {status}")
        except BenchFailed as error:
            problems.append(f"cleaning up: {error.fields['reason']}")
        self._bodies.close()
        return problems

    # what is written

    def _container_name(self, what: str, size: int) -> str:
        word = next((word for word, bytes_ in SIZES.items() if bytes_ == size), "0")
        return f"{self._name}-{what}-{word}"

    def _container(self, what: str, size: int) -> _Keys:
        """Its keys; made when it is asked for first."""
        if (what, size) not in self._keys:
            path = f"/{self._container_name(what, size)}"
            if (status := self._target.request("PUT", path).status) // 100 != 2:
                raise BenchFailed(reason=f"{path}: making the container answered {status}")
            self._keys[what, size] = _Keys()
        return self._keys[what, size]

    def _prefix(self, what: str, size: int) -> str:
        return f"{self._target.path}/{self._container_name(what, size)}/o-"

    def _fill(self, what: str, size: int, wanted: int) -> None:
        keys = self._container(what, size)
        missing = wanted - (keys.next - keys.first)
        if missing <= 0 or (what == "put" and missing * 2 <= wanted):
            return                                                # for DELETE half of them is enough
        self._say(f"writing {missing} objects of {size} bytes")
        op = Op(method="PUT", prefix=self._prefix(what, size), first=keys.next, count=missing)
        result = self._run_untimed(op, size, missing)
        keys.next += missing
        if result.failed:
            raise BenchFailed(reason=f"writing {missing} objects of {size} bytes: {result.describe_errors()}")

    def _empty(self, what: str, size: int) -> None:
        """Delete what is left in a container; what cannot be deleted shows when the container is."""
        keys = self._keys[what, size]
        count = keys.next - keys.first
        if count:
            self._run_untimed(Op(method="DELETE", prefix=self._prefix(what, size), first=keys.first, count=count), size, count)
        keys.first = keys.next

    def _empty_by_listing(self, what: str, size: int) -> None:
        """Delete what is there, page by page; a page that comes again will not go."""
        before: list[str] = []
        while (names := self._target.list_page(self._container_name(what, size))[1]) and names != before:
            before, numbers = names, [int(name.removeprefix("o-")) for name in names]
            keys = self._keys[what, size] = _Keys(first=numbers[0], next=numbers[-1] + 1)
            self._empty(what, size)
            assert keys.first == keys.next

    def _run_untimed(self, op: Op, size: int, count: int) -> LoadResult:
        job = self._base_job(size, connections=min(count, 64 if size < MIB else 4), ops=(op,), seconds=_FILL_S, is_drained=1)
        return self._generator.run(job)

    def _delete_count(self, size: int) -> int:
        """Enough for a window."""
        return {4 * KIB: 500 + round(3000 * self._seconds), MIB: 16 + round(64 * self._seconds)}.get(size, 4)

    # what is timed

    def _base_job(self, size: int, *, connections: int, ops: tuple[Op, ...], seconds: float, is_drained: int, warmup: float = 0.0,
                  pages: tuple[tuple[int, str], ...] = ()) -> Job:
        target = self._target
        return Job(address=target.address, port=target.port, host=target.host, token=target.token, ops=ops, pages=pages,
                   connections=connections, seconds=seconds, warmup=warmup, is_drained=is_drained,
                   seed=self._random.getrandbits(62), body_fd=self._bodies.find_fd(size), body_bytes=size,
                   variant_count=VARIANT_COUNT, variant_step=VARIANT_STEP, check_every=_CHECK_EVERY if size < MIB else 0)

    def _job(self, workload: Workload) -> Job:
        size, verb = workload.size_bytes, workload.verb
        ops: list[Op] = []
        if verb in ("get", "head", "mixed"):
            ops.append(Op(method="HEAD" if verb == "head" else "GET", prefix=self._prefix("get", size), order=RANDOM,
                          count=self._keys["get", size].next, share=READ_SHARE if verb == "mixed" else 1.0))
        if verb in ("put", "mixed"):
            limit = _WINDOW_BYTES_MAX // size if size >= MIB else 0
            ops.append(Op(method="PUT", prefix=self._prefix("put", size), order=NEXT, first=self._keys["put", size].next,
                          count=limit, share=1.0 if verb == "put" else 1.0 - READ_SHARE))
        if verb == "delete":
            keys = self._keys["put", size]
            ops.append(Op(method="DELETE", prefix=self._prefix("put", size), first=keys.first, count=keys.next - keys.first))
        if verb == LIST:
            ops.append(Op(method="GET"))
        warmup = 0.0 if workload.is_drained else min(_WARMUP_S, self._seconds / 4)
        return self._base_job(size, connections=workload.connections, ops=tuple(ops), seconds=self._seconds,
                              is_drained=int(workload.is_drained), warmup=warmup, pages=self._pages if verb == LIST else ())

    def _note_written(self, workload: Workload, result: LoadResult) -> int:
        """Take note of keys that are there or gone now; returns the successful operations."""
        for op in result.ops:
            if op.method == "PUT":
                self._keys["put", workload.size_bytes].next += op.issued
            elif op.method == "DELETE":
                self._keys["put", workload.size_bytes].first += op.issued
        return result.ok

    # what is checked

    def _check(self, workload: Workload, job: Job, result: LoadResult, checks: _Checks) -> None:
        checks.done += result.checked
        if workload.verb == LIST:
            checks.done += result.ok                              # their lengths
            self._walk(checks)
            return
        size = workload.size_bytes
        wanted = 20 if size < MIB else 5 if size == MIB else 2
        for op, done in zip(job.ops, result.ops, strict=True):
            count = op.count if op.order == RANDOM else done.issued
            for number in self._random.sample(range(op.first, op.first + count), min(count, wanted)):
                what = "put" if op.method in ("PUT", "DELETE") else "get"
                path = f"/{self._container_name(what, size)}/o-{number:010d}"
                if op.method == "DELETE":
                    self._check_gone(path, checks)
                else:
                    self._check_there(path, number, size, checks)

    def _check_there(self, path: str, number: int, size: int, checks: _Checks) -> None:
        """Right bytes, right ETag, a row in the listing."""
        body = self._bodies.find_body(size, number)
        checks.note(self._target.find_difference(path, body))
        etag = self._target.request("HEAD", path).fields.get("etag", "").strip('"')
        checks.note(None if etag == hashlib.md5(body).hexdigest() else f"{path}: HEAD answered the ETag {etag!r}")
        checks.note(None if self._is_listed(path) else f"{path}: is not listed")

    def _check_gone(self, path: str, checks: _Checks) -> None:
        """404, and no row."""
        status = self._target.request("GET", path).status
        checks.note(None if status == 404 else f"{path}: was deleted, and a GET answered {status}")
        checks.note(f"{path}: was deleted, and is listed" if self._is_listed(path) else None)

    def _is_listed(self, path: str) -> bool:
        _, container, name = path.split("/", 2)
        return self._target.list_page(container, prefix=name, limit=2)[1] == [name]

    def _walk(self, checks: _Checks) -> None:
        """Page by page with the markers that a client would send: every name, in order, once. Leaves what a window asks for."""
        container = self._container_name("list", 0)
        found: list[str] = []
        pages, marker = [], ""
        while len(found) < 2 * self._names:                       # a listing that goes in circles ends as well
            size, names = self._target.list_page(container, marker=marker)
            if names is None:
                checks.note(f"/{container}: the page after {marker!r} is no listing")
                break
            if not names:
                break
            pages.append((size, f"{self._target.path}/{container}?{page_query(marker=marker)}"))
            if len(names) > PAGE_ROWS:
                checks.note(f"/{container}: a page of {len(names)} rows")
            found += names
            marker = names[-1]
        self._pages = tuple(pages)
        if not pages:
            raise BenchFailed(reason=f"/{container}: has {self._names} objects, and lists none")
        checks.note(_describe_difference(container, [f"o-{number:010d}" for number in range(self._names)], found))
        checks.done += len(found)


def _describe_difference(container: str, wanted: list[str], found: list[str]) -> str | None:
    if wanted == found:
        return None
    for word, names in (("misses", sorted(set(wanted) - set(found))), ("invents", sorted(set(found) - set(wanted)))):
        if names:
            return f"/{quote(container)}: the listing {word} {len(names)} of {len(wanted)} names, the first is {names[0]}"
    return f"/{quote(container)}: the listing has names twice or out of order"


def _sum_up(workload: Workload, result: LoadResult, watch: Watch, checks: _Checks) -> Measured:
    ops = tuple(sorted(result.ops, key=lambda op: -op.count))
    total_s, done = max(result.total_s, 1e-9), max(result.ok, 1)
    other_s = None if watch.cpu_s is None else watch.machine_cpu_s - watch.cpu_s - result.client_cpu_s
    return Measured(
        workload=workload.name, size_bytes=workload.size_bytes, connections=workload.connections,
        rate=sum(op.count for op in ops) / result.elapsed_s, mb_per_s=sum(op.bytes for op in ops) / result.elapsed_s / 1e6,
        p50_ms=ops[0].p50_ms, p99_ms=ops[0].p99_ms, max_ms=max(op.max_ms for op in ops), elapsed_s=result.elapsed_s,
        errors=result.failed, error_text=result.describe_errors(), checks=checks.done, failed_checks=tuple(checks.failed),
        cpu_us_per_op=None if watch.cpu_s is None else watch.cpu_s / done * 1e6,
        server_cores=None if watch.cpu_s is None else watch.cpu_s / total_s, client_cpu_us_per_op=result.client_cpu_s / done * 1e6,
        other_cores=None if other_s is None else max(other_s / total_s, 0.0),
        rss_bytes_max=watch.rss_bytes_max, pss_bytes=watch.pss_bytes, ops=ops)

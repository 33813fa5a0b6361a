"""The audit log: who did what, one JSON object per line.

By default changes of accounts and containers, logins, what was refused (401, 403) and the admin API; `writes` adds objects that are
written and deleted, `all` what is read. A worker gathers entries for one turn of its loop and hands them to a thread, which
formats, writes and rotates: the loop never waits for a disk. What a disk cannot take is dropped, counted, and told of in the
file as soon as there is room. All processes of a node append to one file; a batch is one write, so lines stay whole.

Names come from clients: JSON keeps each in its line. Tokens, keys and signatures never get in. An object request at the default
level costs one look at method, status and path, 0.1 to 0.2 us; an entry 3 us in the loop.
"""
from __future__ import annotations

import asyncio
import fcntl
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.clock import Clock
from common.config import setting
from common.log import Repeats, get_logger
from common.metrics import Registry
from common.timestamp import format_iso
from proxy.explain import chain_of, shown_parameters
from proxy.http.message import Request, Response

FILE_BYTES_MAX, FILES_MAX = 64 << 20, 10         # the file itself and those that were set aside
LINES_WAITING_MAX = 10_000                       # of one process; about 5 MB
HIDDEN = "(hidden)"
_BATCH_LINES_MAX = 1_000
_NONE, _ADMIN, _WRITES, _ALL = range(4)
_LEVELS = {"none": _NONE, "admin": _ADMIN, "writes": _WRITES, "all": _ALL}
_READS = frozenset(("GET", "HEAD", "OPTIONS"))
_REFUSED = frozenset((401, 403))
_TEXT_CHARS_MAX = 4_096
_TOKEN = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9]{0,32}_?tk[A-Za-z0-9_-]{50,}")
_NAMED_SECRET = re.compile(r"(?i)((?:signature|token|secret|passw(?:or)?d|credential|(?<![a-z])sig|api_?key|auth-?key|storage-pass)"
                           r"\w*\s*(?:=|:|%3d|%3a)\s*)[^\s&;,/\"']+")
_SECRET_FIELDS = ("x-auth-token", "x-storage-token", "x-service-token", "x-auth-key", "x-storage-pass", "x-subject-token",
                  "authorization", "cookie")
_log = get_logger("proxy.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """TOML table [audit]."""

    level: str = setting("admin", "admin: accounts, containers, logins, refusals; writes: objects too; all: reads too",
                         choices=tuple(_LEVELS))
    file: str | None = setting(None, "instead of audit/audit.log in the state directory; opened again at SIGHUP",
                               example='"/var/log/holdfast-audit.log"')

    def path(self, state: Path) -> Path:
        """Where lines go. state: the state directory."""
        return state / "audit" / "audit.log" if self.file is None else Path(self.file)


class Entry(NamedTuple):
    """What a line says; None and "" are left out."""

    time_us: int
    event: str                                   # login, account, container, object, admin, other
    request: str
    peer: str
    user: str
    account: str
    door: str
    method: str
    path: str
    status: int
    parameters: dict[str, object] | None = None
    received: int = 0
    sent: int = 0
    ms: float = 0.0
    cause: str = ""


class AuditFile:
    """A file that several processes append to, and the thread that does it for this one. Lines beyond the bound are dropped."""

    def __init__(self, path: Path, *, bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX,
                 waiting_max: int = LINES_WAITING_MAX) -> None:
        self._path, self._bytes_max, self._files_max, self._waiting_max = path, bytes_max, files_max, waiting_max
        self._queue: queue.SimpleQueue[list[Entry] | Path | None] = queue.SimpleQueue()
        self._given = self._taken = 0            # lines: one side writes each, so that neither needs a lock
        self._dropped_full = self._dropped_disk = self._told = 0
        self._fd = -1
        self._is_torn = False                    # the last write broke off within a line
        self._repeats = Repeats(_log)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that are in no file: too many at once, or the disk did not take them."""
        return self._dropped_full + self._dropped_disk

    @property
    def waiting(self) -> int:
        """Lines on their way to the disk."""
        return self._given - self._taken

    def add(self, entries: list[Entry]) -> None:
        """Hand lines over; never waits. One thread only."""
        room = max(self._waiting_max - self.waiting, 0)
        if len(entries) > room:
            self._dropped_full += len(entries) - room
            del entries[room:]
        if entries:
            self._given += len(entries)
            self._queue.put(entries)

    def reopen(self, path: Path) -> None:
        """After a rotation by somebody else, or for another path."""
        self._queue.put(path)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, as far as the disk lets us within the time."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    # the thread's side

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, list):
                self._write(item)
                self._taken += len(item)
            else:
                self._let_go()
                if item is None:
                    return
                self._path = item

    def _write(self, entries: Sequence[Entry]) -> None:
        for start in range(0, len(entries), _BATCH_LINES_MAX):
            lines = [format_entry(entry) for entry in entries[start:start + _BATCH_LINES_MAX]]
            dropped = self.dropped
            if dropped > self._told:
                lines.insert(0, _format_dropped(entries[start].time_us, dropped - self._told))
            try:
                self._append("".join(lines).encode())
            except OSError as error:
                self._let_go()
                self._dropped_disk += len(entries[start:start + _BATCH_LINES_MAX])
                self._repeats.error("audit log cannot be written", about=str(self._path), error=str(error))
            else:
                self._told = dropped

    def _append(self, data: bytes) -> None:
        """One write. Raises `OSError`, also for one that was cut short."""
        self._open_right_one()
        if self._is_torn:
            data = b"\n" + data                  # the rest of that line is lost, the next ones shall not be
        self._is_torn = True
        count = os.write(self._fd, data)
        if count < len(data):
            count += os.write(self._fd, data[count:])            # says what is wrong, or puts it right
        if count < len(data):
            raise OSError(28, "cut short")
        self._is_torn = False

    def _open_right_one(self) -> None:
        """The file of that name, which others may have set aside, and which is not too large. Raises `OSError`."""
        if self._fd >= 0 and not self._is_current():
            self._let_go()
        if self._fd < 0:
            self._open()
        if os.fstat(self._fd).st_size >= self._bytes_max:
            self._rotate()

    def _is_current(self) -> bool:
        try:
            named, mine = os.stat(self._path), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _rotate(self) -> None:
        """audit.log becomes audit.log.1, and so on; the oldest goes. Only one process does it: the lock is on the file itself."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if self._is_current():
                for number in range(self._files_max - 1, 0, -1):
                    older = self._path if number == 1 else self._numbered(number - 1)
                    if older.exists():
                        older.rename(self._numbered(number))
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._let_go()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class AuditLog:
    """What of all that happens in this process is an entry, and the way of entries to the file. Belongs to the event loop."""

    def __init__(self, config: AuditConfig, state: Path, clock: Clock, *, registry: Registry | None = None,
                 make_file: Callable[[Path], AuditFile] = AuditFile) -> None:
        self._state, self._clock, self._make_file = state, clock, make_file
        self.who: Callable[[Request], str] = lambda request: ""          # the user that a request's token stands for, "" for none
        self._level = _LEVELS[config.level]
        self._path = config.path(state)
        self._file: AuditFile | None = None
        self._entries: list[Entry] = []
        if registry is not None:
            gauge = registry.gauge("holdfast_audit_lines", "of this process's audit log, by what became of them", ("state",))
            gauge.labels("dropped").source = lambda: self._file.dropped if self._file is not None else 0
            gauge.labels("waiting").source = lambda: self._file.waiting if self._file is not None else 0

    def configure(self, config: AuditConfig) -> None:
        """Level and path as they are now; the file is opened again."""
        self._level = _LEVELS[config.level]
        self._path = config.path(self._state)
        if self._file is not None:
            self._file.reopen(self._path)

    def note(self, request: Request, response: Response, sent_bytes: int, seconds: float) -> None:
        """The answer to a client's request is out."""
        status, level = response.status, self._level
        if status not in _REFUSED and level < _ALL:
            if request.method in _READS:
                if not request.raw_path.startswith(b"/auth"):
                    return
            elif level < _WRITES and _names_object(request.path):
                return
        if level:
            self._note(request, response, sent_bytes, seconds)

    def note_admin(self, method: str, path: str, peer: str, status: int, seconds: float, cause: str) -> None:
        """A call of the admin API is answered. Who has its key is the operator: nobody else is known there."""
        if self._level:
            user = "" if status in _REFUSED else "operator"
            self._gather(Entry(self._clock.now_us(), "admin", "", peer, user, "", "admin", method, hide_secrets(path), status,
                               ms=round(seconds * 1e3, 1), cause=cause))

    async def close(self) -> None:
        """Write what there is."""
        self._hand_over()
        if self._file is not None:
            await asyncio.to_thread(self._file.close)
            self._file = None

    def _note(self, request: Request, response: Response, sent_bytes: int, seconds: float) -> None:
        event, account = _event_of(request)
        is_login = event == "login"
        user = (request.headers.get("x-auth-user") or request.headers.get("x-storage-user", "")) if is_login else self.who(request)
        cause = ""
        if response.status >= 400:
            error = request.failed[0] if request.failed is not None else None
            cause = chain_of(error, response.status)[0].rule
        secrets = _secrets_of(request)
        self._gather(Entry(
            self._clock.now_us() - int(seconds * 1e6), event, request.txid or "", request.peer, hide_secrets(user, secrets),
            hide_secrets(account, secrets), "swift", request.method[:32], _path_of(request, secrets), response.status,
            _parameters_of(request, secrets) if request.raw_query else None, request.body.length or 0, sent_bytes,
            round(seconds * 1e3, 1), cause))

    def _gather(self, entry: Entry) -> None:
        if not self._entries:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._entries.append(entry)

    def _hand_over(self) -> None:
        entries, self._entries = self._entries, []
        if entries:
            if self._file is None:               # only now: a level of none needs no thread
                self._file = self._make_file(self._path)
            self._file.add(entries)


def _names_object(path: bytes) -> bool:
    parts = path.split(b"/", 4)
    return len(parts) == 5 and bool(parts[4])


def _event_of(request: Request) -> tuple[str, str]:
    """What kind of thing it is about, and the account."""
    path = request.path
    if path.startswith(b"/auth"):
        return "login", ""
    parts = path.split(b"/", 4)
    if len(parts) < 3 or parts[1] not in (b"v1", b"v1.0"):
        return "other", ""
    names = [part for part in parts[2:] if part]
    account = names[0].decode("utf-8", "backslashreplace")[:_TEXT_CHARS_MAX] if names else ""
    return ("other", "account", "container", "object")[len(names)], account


def _path_of(request: Request, secrets: Sequence[str]) -> str:
    """As the client wrote it; decoded, if only that shows that there is a secret in it."""
    raw = request.raw_path.decode("latin-1")
    shown = hide_secrets(raw, secrets)
    if "%" in raw and HIDDEN not in shown:
        decoded = hide_secrets(request.path.decode("utf-8", "backslashreplace"), secrets)
        return decoded if HIDDEN in decoded else shown
    return shown


def _parameters_of(request: Request, secrets: Sequence[str]) -> dict[str, object]:
    """Names and values may hold a secret by mistake as well."""
    return {hide_secrets(name, secrets): hide_secrets(value, secrets) if isinstance(value, str) else value
            for name, value in shown_parameters(request).items()}


def _secrets_of(request: Request) -> list[str]:
    """What this request has brought to prove who asks; it may stand in its path by mistake."""
    found = [value for name in _SECRET_FIELDS if (value := request.headers.get(name)) and len(value) >= 4]
    if request.raw_query:
        found += [value for name, value in request.query.items() if len(value) >= 4 and _NAMED_SECRET.search(f"{name}=x")]
    return sorted(found, key=len, reverse=True)


def hide_secrets(text: str, secrets: Sequence[str] = ()) -> str:
    """The text without `secrets`, without what looks like a token of ours, and without what is named as a secret."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    if "tk" in text:
        text = _TOKEN.sub(HIDDEN, text)
    if "=" in text or ":" in text or "%3" in text:
        text = _NAMED_SECRET.sub(lambda found: found[1] + HIDDEN, text)
    return text[:_TEXT_CHARS_MAX]


def format_entry(entry: Entry) -> str:
    """A line. JSON escapes what is no plain ASCII, so that no name can begin a line or move a cursor."""
    fields = {name: value for name, value in entry._asdict().items() if value not in ("", None, 0) and name != "time_us"}
    return json.dumps({"time": format_iso(entry.time_us) + "Z", **fields}) + "\n"


def _format_dropped(time_us: int, count: int) -> str:
    return json.dumps({"time": format_iso(time_us) + "Z", "event": "dropped", "lines": count}) + "\n"

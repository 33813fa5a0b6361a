"""Logs: an event, then key=value; `replica pushed partition=1207 device=d3 ms=18.2`.

Error: a human acts. Warning: degraded, still serving. Info: a change of state. Debug: per request. What gets counted is
a metric. A line is one write(2) to a descriptor in append mode, so that the processes of a node share one file. A
disabled level costs one comparison; values of fields that name a secret never get out. Nothing here raises: a full log
disk must not stop a store.
"""
from __future__ import annotations

import json
import math
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.clock import Clock, SystemClock
from common.config import setting
from common.timestamp import format_iso

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
_NAMES = {number: name for name, number in LEVELS.items()}
REDACTED = "(hidden)"

_SECRET_WORDS = frozenset(("key", "token", "secret", "password", "passwd", "authorization", "cookie", "signature", "credential",
                           "credentials", "apikey"))
_HARMLESS_ENDINGS = frozenset(("file", "hash", "id", "count", "bytes", "index", "s", "ms", "us"))
_SECRET_IN_TEXT = re.compile(r"(?i)((?:[\w-]*(?:signature|token|secret|password)|temp_url_sig|x-storage-pass)\s*[=:]\s*)"
                             r"(?:Bearer\s+)?[^\s&;,\"']+")
_PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f]+")
_SECRET_BY_FIELD: dict[str, bool] = {}
_TRACEBACK_CHARS = 8_000
_VALUE_CHARS = 2_000
_REPEATS_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """TOML table [log]."""

    level: str = setting("info", "what is written", choices=("debug", "info", "warning", "error"))
    format: str = setting("text", "text for people, json for machines", choices=("text", "json"))
    file: str | None = setting(None, "a file instead of standard error; opened again at SIGHUP",
                               example='"/var/log/holdfast.log"')


class Sink:
    """Where lines go: a descriptor, a level and a form. `lost_count`: lines that could not be written."""

    def __init__(self, *, fd: int = 2, level: int = INFO, is_json: bool = False, clock: Clock | None = None) -> None:
        self.fd, self.level, self.is_json = fd, level, is_json
        self.clock: Clock = clock or SystemClock()
        self.path: Path | None = None
        self.lost_count = 0

    def write(self, level: int, name: str, event: str, fields: dict[str, object]) -> None:
        """One line, now. Never raises."""
        try:
            make = format_json if self.is_json else format_text
            line = make(format_iso(self.clock.now_us()) + "Z", level, name, event, fields)
            os.write(self.fd, line.encode(errors="backslashreplace"))
        except Exception:                                # a __str__ that fails, a disk that is full: neither is worth a request
            self.lost_count += 1

    def open(self, path: Path) -> None:
        """Write to `path` from now on. Raises `OSError`, and then goes on as before."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self.path is not None:
            os.close(self.fd)
        self.fd, self.path = fd, path

    def reopen(self) -> None:
        """After the file was renamed by log rotation."""
        if self.path is not None:
            self.open(self.path)


_SINK = Sink()


class Logger:
    """Writes events under one name, with fields that are the same for all of them."""

    __slots__ = ("_fields", "_name", "_sink")

    def __init__(self, name: str, sink: Sink | None = None, fields: dict[str, object] | None = None) -> None:
        self._name, self._sink, self._fields = name, sink or _SINK, fields or {}

    def bind(self, **fields: object) -> Logger:
        """A logger that adds `fields` to each event."""
        return Logger(self._name, self._sink, {**self._fields, **fields})

    def is_enabled(self, level: int) -> bool:
        """For callers that would have to compute a field."""
        return level >= self._sink.level

    def debug(self, event: str, **fields: object) -> None:
        """Per request."""
        if self._sink.level <= DEBUG:
            self._sink.write(DEBUG, self._name, event, {**self._fields, **fields})

    def info(self, event: str, **fields: object) -> None:
        """A change of state."""
        if self._sink.level <= INFO:
            self._sink.write(INFO, self._name, event, {**self._fields, **fields})

    def warning(self, event: str, **fields: object) -> None:
        """Degraded, still serving."""
        if self._sink.level <= WARNING:
            self._sink.write(WARNING, self._name, event, {**self._fields, **fields})

    def error(self, event: str, **fields: object) -> None:
        """A human acts. A field `exc` with an exception adds its traceback."""
        if self._sink.level <= ERROR:
            self._sink.write(ERROR, self._name, event, {**self._fields, **fields})

    def log(self, level: int, event: str, fields: dict[str, object]) -> None:
        """An event whose level is data."""
        if self._sink.level <= level:
            self._sink.write(level, self._name, event, {**self._fields, **fields})


class Repeats:
    """Events that may come a thousand times a second: the first is written, then one per interval with `repeated=N`."""

    def __init__(self, logger: Logger, *, interval_s: float = 10.0, clock: Clock | None = None) -> None:
        self._logger, self._interval_s = logger, interval_s
        self._clock: Clock = clock or SystemClock()
        self._seen: dict[tuple[str, object], list[float]] = {}        # (event, about): time of the last line, events since

    def warning(self, event: str, *, about: object = "", **fields: object) -> None:
        """As `Logger.warning`; events with another `about` (a device, a peer) count apart."""
        self._emit(WARNING, event, about, fields)

    def error(self, event: str, *, about: object = "", **fields: object) -> None:
        """As `Logger.error`."""
        self._emit(ERROR, event, about, fields)

    def _emit(self, level: int, event: str, about: object, fields: dict[str, object]) -> None:
        now_s = self._clock.monotonic_s()
        seen = self._seen.get((event, about))
        if seen is not None and now_s - seen[0] < self._interval_s:
            seen[1] += 1
            return
        if seen is None and len(self._seen) >= _REPEATS_MAX:
            self._seen.pop(next(iter(self._seen)))                     # bounded, though `about` may come from outside
        if seen is not None and seen[1]:
            fields = {**fields, "repeated": int(seen[1])}
        self._seen[event, about] = [now_s, 0]
        self._logger.log(level, event, {"about": about, **fields} if about != "" else fields)


def get_logger(name: str) -> Logger:
    """The logger of a module, by its dotted name; follows `configure_logging` even if made before it."""
    return Logger(name)


def configure_logging(config: LogConfig) -> Sink:
    """Set level, form and file of this process, and lead the standard library's warnings here. Raises `OSError`."""
    _SINK.level, _SINK.is_json = LEVELS[config.level], config.format == "json"
    if config.file is not None:
        _SINK.open(Path(config.file))
    _adopt_standard_logging()
    return _SINK


def _adopt_standard_logging() -> None:
    """asyncio and aiohttp speak to `logging`: their warnings become lines of ours."""
    import logging

    class _Bridge(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields: dict[str, object] = {"exc": record.exc_info[1]} if record.exc_info and record.exc_info[1] else {}
            Logger(record.name).log(record.levelno, record.getMessage(), fields)

    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


def is_secret_field(name: str) -> bool:
    """True for token, auth_token, X-Auth-Key; not for key_file, token_count."""
    found = _SECRET_BY_FIELD.get(name)
    if found is None:
        words = re.split(r"[_\-. ]", name.lower())
        found = words[-1] not in _HARMLESS_ENDINGS and not _SECRET_WORDS.isdisjoint(words)
        if len(_SECRET_BY_FIELD) < _REPEATS_MAX:
            _SECRET_BY_FIELD[name] = found
    return found


def format_text(when: str, level: int, name: str, event: str, fields: dict[str, object]) -> str:
    """One line; a traceback follows in lines of its own that begin with "  | "."""
    out = [when, _level_name(level), name, _hide_in_text(event) if event.isprintable() else _quote(event)]
    tail = ""
    for key, value in fields.items():
        if isinstance(value, BaseException) and key == "exc":
            out.append(f"exc={type(value).__name__}")
            tail = "".join(f"  | {line}\n" for line in _format_traceback(value).splitlines())
        else:
            out.append(f"{key}={_format_value(key, value)}")
    return " ".join(out) + "\n" + tail


def format_json(when: str, level: int, name: str, event: str, fields: dict[str, object]) -> str:
    """The same as one JSON object."""
    record: dict[str, Any] = {"time": when, "level": _level_name(level), "logger": name, "event": _hide_in_text(event)}
    for key, value in fields.items():
        if isinstance(value, BaseException) and key == "exc":
            record["exc"], record["traceback"] = type(value).__name__, _format_traceback(value)
        elif is_secret_field(key):
            record[key] = REDACTED
        elif isinstance(value, int) or value is None or (isinstance(value, float) and math.isfinite(value)):
            record[key] = value
        else:
            record[key] = _hide_in_text(_as_text(value))
    return json.dumps(record) + "\n"


def _level_name(level: int) -> str:
    return _NAMES.get(level) or ("error" if level > ERROR else "debug")


def _format_value(key: str, value: object) -> str:
    if is_secret_field(key):
        return REDACTED
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return f"{value:.6g}"
    text = _hide_in_text(_as_text(value))
    return text if _PLAIN.fullmatch(text) and text.isprintable() else _quote(text)


def _as_text(value: object) -> str:
    text = bytes(value).decode(errors="backslashreplace") if isinstance(value, bytes | bytearray | memoryview) else str(value)
    return text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}...({len(text)} characters)"


def _quote(text: str) -> str:
    """A client chooses names: a line break in one must not look like a line of ours."""
    return json.dumps(text, ensure_ascii=not text.replace("\n", "").isprintable())


def _hide_in_text(text: str) -> str:
    if "=" not in text and ":" not in text:
        return text
    return _SECRET_IN_TEXT.sub(lambda found: found[1] + REDACTED, text)


def _format_traceback(error: BaseException) -> str:
    return _hide_in_text("".join(traceback.format_exception(error))[-_TRACEBACK_CHARS:])

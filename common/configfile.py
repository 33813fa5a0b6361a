"""The configuration file: where it is looked for, its TOML, and the line of every key (tomllib does not tell lines)."""
from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError

KeyPath = tuple[str | int, ...]                # ("auth", "user", 0, "account")

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_TOKEN = re.compile(r'''"""|\'\'\'|"(?:[^"\\]|\\.)*"|'[^']*'|#.*|[\[\]{}]''')
_TOML_PLACE = re.compile(r"\(at line (\d+), column \d+\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A parsed file. `lines`: 1-based line of each key and table header."""

    path: Path | None
    values: Mapping[str, object]
    lines: Mapping[KeyPath, int]
    is_private: bool                           # mode 0600 or stricter: may hold plain keys

    def where(self, key: KeyPath) -> str:
        """file:line of `key`, or of the nearest enclosing key that has a line."""
        for length in range(len(key), 0, -1):
            line = self.lines.get(key[:length])
            if line is not None:
                return f"{self.path}:{line}"
        return str(self.path)


NO_FILE = ConfigFile(path=None, values={}, lines={}, is_private=True)


def find_config_path(path: str | Path | None, environ: Mapping[str, str], *, cwd: Path | None = None) -> Path | None:
    """The file to read: `path`, $HOLDFAST_CONFIG, ./holdfast.toml, /etc/holdfast/holdfast.toml,
    ~/.config/holdfast/holdfast.toml; None if there is none. A file that was asked for by name has to exist: `ConfigError`."""
    for asked, origin in ((path, "--config"), (environ.get("HOLDFAST_CONFIG"), "HOLDFAST_CONFIG")):
        if asked:
            try:
                is_there = Path(asked).is_file()
            except PermissionError as error:
                raise ConfigError(where=str(asked), reason=f"this user may not read it (named by {origin})") from error
            if not is_there:
                raise ConfigError(where=str(asked), reason=f"no such file (named by {origin})")
            return Path(asked)
    places = [(cwd or Path.cwd()) / "holdfast.toml", Path("/etc/holdfast/holdfast.toml")]
    if home := environ.get("HOME"):
        places.append(Path(home) / ".config/holdfast/holdfast.toml")
    return next((place for place in places if _is_ours(place)), None)


def _is_ours(place: Path) -> bool:
    """A file that this user may read: that of a service of the machine is not for everybody who tries something."""
    try:
        return place.is_file() and os.access(place, os.R_OK)
    except PermissionError:
        return False


def load_config_file(path: Path) -> ConfigFile:
    """Read and parse `path`. Raises `ConfigError` for what cannot be read or is no TOML."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = file.read().decode()
    except OSError as error:
        raise ConfigError(where=str(path), reason=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(where=str(path), reason=f"not UTF-8 at byte {error.start}") from error
    return parse_config_text(text, path=path, is_private=not mode & 0o077)


def parse_config_text(text: str, *, path: Path, is_private: bool = True) -> ConfigFile:
    """A `ConfigFile` of `text`. Raises `ConfigError` with file:line for what is no TOML."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        where = f"{path}:{place[1]}" if place else f"{path}:{max(1, len(text.splitlines()))}"
        reason = "not TOML: " + _TOML_PLACE.sub("", str(error)).strip()
        raise ConfigError(where=where, reason=reason) from error
    return ConfigFile(path=path, values=values, lines=find_key_lines(text), is_private=is_private)


def find_key_lines(text: str) -> dict[KeyPath, int]:
    """Line numbers of the keys and headers of a valid TOML text; keys inside inline tables have none of their own."""
    lines: dict[KeyPath, int] = {}
    rows: dict[KeyPath, int] = {}              # array of tables: index of its newest row
    table: KeyPath = ()
    depth, closing = 0, ""                     # open brackets, and the delimiter of an open multi-line string
    for number, line in enumerate(text.splitlines(), 1):
        start = 0
        if not depth and not closing:
            if header := _HEADER.match(line):
                table = _open_table(_split_key(header[2]), rows, is_row=header[1] == "[[")
                lines.setdefault(table, number)
                continue
            if assignment := _ASSIGNMENT.match(line):
                lines[table + _split_key(assignment[1])] = number
                start = assignment.end()
        depth, closing = _scan(line, start, depth, closing)
    return lines


def _open_table(names: KeyPath, rows: dict[KeyPath, int], *, is_row: bool) -> KeyPath:
    """The path of a [header]: a name that is an array of tables stands for its newest row."""
    path: KeyPath = ()
    for position, name in enumerate(names):
        path += (name,)
        if is_row and position == len(names) - 1:
            rows[path] = rows.get(path, -1) + 1
        if path in rows:
            path += (rows[path],)
    return path


def _split_key(text: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, text))


def _scan(line: str, start: int, depth: int, closing: str) -> tuple[int, str]:
    """Follow brackets and multi-line strings through one line of a value."""
    while start < len(line):
        if closing:
            end = line.find(closing, start)
            if end < 0:
                return depth, closing
            start, closing = end + 3, ""
            continue
        token = _TOKEN.search(line, start)
        if token is None:
            break
        start = token.end()
        if token[0] in ('"""', "'''"):
            closing = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
    return depth, closing

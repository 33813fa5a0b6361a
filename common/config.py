"""Typed TOML: tables are frozen dataclasses, a setting says its default, bounds and meaning once, and mistakes name a line.

A service declares its table in its `config.py`:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ObjectConfig:
        inline_bytes_max: int = setting(65_536, "larger bodies become files", low=0)

A field may be bool, int, float, str, any of them `| None`, `tuple[str, ...]`, another table, or a tuple of tables (rows).
Values come from the command line, else the environment (HOLDFAST_<TABLE>_<KEY>), else the file, else the default.
"""
from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from common.configfile import NO_FILE, ConfigFile, KeyPath
from common.errors import ConfigError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_MISSING = dataclasses.MISSING
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a setting means and may be. `low` and `high` are included in what is allowed."""

    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], object] | None = None         # raises ValueError with a sentence
    is_secret: bool = False                              # never printed
    needs_private_file: bool = False                     # accepted only from a file that is 0600
    example: str = ""                                    # TOML of the sample, where the default says too little


def setting(default: Any, doc: str, **rule: Any) -> Any:
    """A field with a default; further arguments as in `Rule`."""
    return field(default=default, metadata={"rule": Rule(doc=doc, **rule)})


def required(doc: str, **rule: Any) -> Any:
    """A field that each row has to give."""
    return field(metadata={"rule": Rule(doc=doc, **rule)})


def table(kind: type, doc: str) -> Any:
    """A field that is a table of its own; every setting in it has a default."""
    return field(default_factory=kind, metadata={"rule": Rule(doc=doc)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One field of a table class, taken apart. `kind` is the value type, the table class, or the row class."""

    name: str
    kind: type
    shape: str                                           # "leaf", "strings", "table", "rows"
    is_optional: bool
    default: Any                                         # dataclasses.MISSING if it is required
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T_co]):
    """A configuration, and for each dotted setting where it came from: default, file:line, environment NAME, command line."""

    value: T_co
    origins: Mapping[str, str]
    file: ConfigFile


def declared_fields(kind: type) -> list[Declared]:
    """The fields of a table class in their order."""
    hints = typing.get_type_hints(kind)
    return [_declare(item, hints[item.name]) for item in dataclasses.fields(kind)]


def _declare(item: dataclasses.Field[Any], hint: Any) -> Declared:
    is_optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (arm for arm in typing.get_args(hint) if arm is not type(None))
        is_optional = True
    if typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
        shape = "rows" if dataclasses.is_dataclass(hint) else "strings"
    else:
        shape = "table" if dataclasses.is_dataclass(hint) else "leaf"
    default = item.default_factory() if item.default_factory is not _MISSING else item.default
    rule = item.metadata.get("rule") or Rule(doc="")
    return Declared(name=item.name, kind=hint, shape=shape, is_optional=is_optional, default=default, rule=rule)


def count_settings(kind: type) -> int:
    """Settings of a table and the tables in it; a row is data and does not count."""
    weights = {"rows": 0, "leaf": 1, "strings": 1}
    items = declared_fields(kind)
    return sum(count_settings(item.kind) if item.shape == "table" else weights[item.shape] for item in items)


def build_config(kind: type[T], file: ConfigFile = NO_FILE, *, environ: Mapping[str, str] | None = None,
                 overrides: Mapping[str, object] | None = None) -> Loaded[T]:
    """The configuration `kind` from all sources.

    overrides: dotted name to value, from the command line; None means not given. Raises one `ConfigError` that names the
    first problem (`where`, `reason`) and lists all of them (`problems`). A table class may have `problems()`, which
    yields (dotted name, reason) for values that do not fit together.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    builder = _Builder(file, environ or {}, given)
    value = builder.table(kind, file.values, ())
    builder.refuse_unknown_environment(kind)
    builder.refuse_unknown_overrides()
    if builder.problems:
        where, reason = builder.problems[0]
        raise ConfigError(where=where, reason=reason, problems=[f"{w}: {r}" for w, r in builder.problems])
    return Loaded(value=value, origins=builder.origins, file=file)


def dotted(path: Iterable[str | int]) -> str:
    """("auth", "user", 0) to "auth.user.0"."""
    return ".".join(str(part) for part in path)


class _Builder:
    """One walk over the declared tables; problems are gathered, not raised, so that one run shows them all."""

    def __init__(self, file: ConfigFile, environ: Mapping[str, str], overrides: Mapping[str, object]) -> None:
        self.file, self.environ, self.overrides = file, environ, overrides
        self.origins: dict[str, str] = {}
        self.problems: list[tuple[str, str]] = []
        self.known_variables: set[str] = set()
        self.known_overrides: set[str] = set()

    def table(self, kind: type[T], raw: object, path: KeyPath) -> Any:
        """An instance of `kind`, or None if something in it is wrong."""
        if not isinstance(raw, Mapping):
            return self._problem(self.file.where(path), f"{dotted(path)} must be a table, as in [{dotted(path)}]")
        items = declared_fields(kind)
        count_before = len(self.problems)
        self._refuse_unknown_keys(raw, items, path)
        values = {}
        for item in items:
            at = (*path, item.name)
            if item.shape == "table":
                values[item.name] = self.table(item.kind, raw.get(item.name, {}), at)
            elif item.shape == "rows":
                values[item.name] = self._rows(item, raw, at)
            else:
                values[item.name] = self._leaf(item, raw, at)
        if len(self.problems) > count_before:
            return None
        made: Any = kind(**values)
        for name, reason in getattr(made, "problems", _no_problems)():
            full = (*path, *(int(part) if part.isdigit() else part for part in name.split(".")))
            self._problem(self._where(full), reason)
        return made

    def _rows(self, item: Declared, raw: Mapping[str, object], path: KeyPath) -> tuple[Any, ...]:
        if item.name not in raw:
            default: tuple[Any, ...] = item.default
            self.origins[dotted(path)] = "default"
            return default
        rows = raw[item.name]
        if not isinstance(rows, list):
            self._problem(self.file.where(path), f"{dotted(path)} is a list of rows: write [[{dotted(path)}]]")
            return ()
        return tuple(self.table(item.kind, row, (*path, index)) for index, row in enumerate(rows))

    def _leaf(self, item: Declared, raw: Mapping[str, object], path: KeyPath) -> object:
        name = dotted(path)
        is_row = any(isinstance(part, int) for part in path)
        variable = "HOLDFAST_" + "_".join(str(part) for part in path).upper()
        if not is_row:
            self.known_variables.add(variable)
            self.known_overrides.add(name)
        if name in self.overrides:
            origin, value = "command line", self.overrides[name]
        elif not is_row and variable in self.environ:
            origin, value = f"environment {variable}", self.environ[variable]
        elif item.name in raw:
            origin, value = self.file.where(path), raw[item.name]
        elif item.default is _MISSING:
            return self._problem(self.file.where(path), f"{dotted(path[:-1])}: {item.name} is missing ({item.rule.doc})")
        else:
            self.origins[name] = "default"
            return item.default
        self.origins[name] = origin
        is_text = origin.startswith("environment") or origin == "command line"
        try:
            self._check_private(item, is_text=is_text)
            return convert(value, item, is_text=is_text)
        except ValueError as error:
            return self._problem(origin, f"{name} {error}")

    def _check_private(self, item: Declared, *, is_text: bool) -> None:
        if item.rule.needs_private_file and not is_text and not self.file.is_private:
            raise ValueError(f"is a secret in a file that others can read: chmod 600 {self.file.path}")

    def _refuse_unknown_keys(self, raw: Mapping[str, object], items: list[Declared], path: KeyPath) -> None:
        names = [item.name for item in items]
        for key in raw:
            if key not in names:
                place = f"in [{dotted(part for part in path if isinstance(part, str))}]" if path else "at the top level"
                self._problem(self.file.where((*path, key)), f"unknown key {key!r} {place}{hint(key, names)}")

    def refuse_unknown_environment(self, kind: type) -> None:
        """A variable that begins like one of our tables and names no setting is a slip, not somebody else's."""
        prefixes = tuple(f"HOLDFAST_{item.name.upper()}_" for item in declared_fields(kind) if item.shape == "table")
        for variable in self.environ:
            if variable.startswith(prefixes) and variable not in self.known_variables:
                self._problem(f"environment {variable}", "no such setting" + hint(variable, sorted(self.known_variables)))

    def refuse_unknown_overrides(self) -> None:
        for name in self.overrides:
            if name not in self.known_overrides:
                self._problem("command line", f"no such setting {name!r}" + hint(name, sorted(self.known_overrides)))

    def _where(self, path: KeyPath) -> str:
        """Origin of a setting, for a problem that shows only when all values are known."""
        origin = self.origins.get(dotted(path), "default")
        return self.file.where(path) if origin == "default" and self.file.path else origin

    def _problem(self, where: str, reason: str) -> Any:
        """Remember it; returns None, which nobody gets to see."""
        self.problems.append((where, reason))
        return None


def hint(word: str, known: Iterable[str]) -> str:
    """": did you mean ...?", or "" if nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else ""


def convert(value: object, item: Declared, *, is_text: bool) -> object:
    """`value` as the declared type. is_text: it came from the environment or the command line. Raises `ValueError`."""
    if item.shape == "strings":
        return _convert_strings(value, item, is_text=is_text)
    if is_text and isinstance(value, str):
        value = _parse_text(value, item.kind)
    if item.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not item.kind:
        raise ValueError(f"must be {_WORDS[item.kind]}, not {value!r}")
    _check_bounds(value, item.rule)
    if item.rule.check is not None:
        item.rule.check(value)
    return value


def _convert_strings(value: object, item: Declared, *, is_text: bool) -> tuple[str, ...]:
    if is_text and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"must be a list of strings, not {value!r}")
    for part in value:
        if item.rule.check is not None:
            item.rule.check(part)
    return tuple(value)


def _parse_text(text: str, kind: type) -> object:
    try:
        return _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"must be {_WORDS[kind]}, not {text!r}") from None


def _check_bounds(value: object, rule: Rule) -> None:
    if rule.choices and value not in rule.choices:
        near = hint(str(value), rule.choices)
        raise ValueError(f"must be one of {', '.join(rule.choices)}, not {value!r}{near}")
    if not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise ValueError(f"must be finite, not {value!r}")
    if rule.low is not None and value < rule.low:
        raise ValueError(f"must be at least {format_bound(rule.low)}, not {value!r}")
    if rule.high is not None and value > rule.high:
        raise ValueError(f"must be at most {format_bound(rule.high)}, not {value!r}")


def format_bound(bound: float) -> str:
    """1048576, not 1.04858e+06."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _no_problems() -> Iterator[tuple[str, str]]:
    return iter(())

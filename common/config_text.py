"""What people read of a configuration: the commented sample, and the effective values with their origins."""
from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator

from common.config import Declared, Loaded, declared_fields, dotted, format_bound
from common.configfile import KeyPath

_HIDDEN = "(hidden)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One effective value; `value` is "(hidden)" for a secret that is set, None for a setting that is not."""

    name: str
    value: object
    origin: str


def effective_values(loaded: Loaded[object]) -> list[Shown]:
    """Every setting of the configuration, rows included, in the order of declaration."""
    return list(_walk(loaded.value, (), loaded))


def _walk(table: object, path: KeyPath, loaded: Loaded[object]) -> Iterator[Shown]:
    for item in declared_fields(type(table)):
        at = (*path, item.name)
        value = getattr(table, item.name)
        if item.shape == "table":
            yield from _walk(value, at, loaded)
        elif item.shape == "rows":
            for index, row in enumerate(value):
                yield from _walk(row, (*at, index), loaded)
        else:
            shown = _HIDDEN if item.rule.is_secret and value else value
            yield Shown(name=dotted(at), value=shown, origin=loaded.origins.get(dotted(at), "default"))


def format_values(values: list[Shown]) -> str:
    """`name = value   # origin`, one line each."""
    lines = [(f"{shown.name} = {format_toml(shown.value)}", shown.origin) for shown in values]
    width = min(60, max(len(line) for line, _ in lines))
    return "".join(f"{line:<{width}}  # {origin}\n" for line, origin in lines)


def format_toml(value: object) -> str:
    """A value as TOML; "unset" for None, which TOML does not have."""
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return "[" + ", ".join(format_toml(part) for part in value) + "]"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def make_sample(kind: type, *, title: str) -> str:
    """A configuration file in which every setting stands as a comment with its default: used as it is, it changes nothing."""
    out = [*_comment(title), ""]
    for item in declared_fields(kind):
        out += _sample_table(item, (item.name,))
    return "\n".join(out).rstrip() + "\n"


def _sample_table(item: Declared, path: tuple[str, ...]) -> list[str]:
    if item.shape == "rows":
        return [*_comment(item.rule.doc), f"# [[{'.'.join(path)}]]", *_sample_leaves(item.kind), ""]
    out = [*_comment(item.rule.doc), f"[{'.'.join(path)}]", *_sample_leaves(item.kind), ""]
    for inner in declared_fields(item.kind):
        if inner.shape in ("table", "rows"):
            out += _sample_table(inner, (*path, inner.name))
    return out


def _sample_leaves(kind: type) -> list[str]:
    out = []
    for item in declared_fields(kind):
        if item.shape in ("table", "rows"):
            continue
        is_unset = item.default is None or item.default is dataclasses.MISSING
        value = item.rule.example or format_toml("" if is_unset else item.default)
        limits = _limits(item)
        out.append(f"# {item.name} = {value}".ljust(44) + f"  # {item.rule.doc}{limits}")
    return out


def _limits(item: Declared) -> str:
    rule = item.rule
    if rule.choices:
        return f" ({', '.join(rule.choices)})"
    if rule.low is not None and rule.high is not None:
        return f" ({format_bound(rule.low)} to {format_bound(rule.high)})"
    return ""


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 110)]

"""Who may do what: rules in the syntax that OpenStack operators know, compiled once, evaluated in microseconds.

    expression: or, and, not, parentheses over checks;   "@" and "" allow, "!" refuses
    check: role:NAME | rule:NAME | LEFT:RIGHT            LEFT: a name of the caller (user_id, system_scope ...), or a literal
                                                         RIGHT: text, %(name)s is an attribute of the target

A caller's value that is a set matches by membership. What is missing on either side matches nothing, so a rule over a target
that was not found refuses. Rules that refer to each other in a circle, or to one that does not exist, stop the start.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from common.config import hint
from common.errors import ConfigError

Target = Mapping[str, object]
Check = Callable[[Mapping[str, object], Target], bool]
_CHARS_MAX, _DEPTH_MAX = 10_000, 40
_TOKEN = re.compile(r"\s*(\(|\)|(?:'[^']*'|\"[^\"]*\"|%\([^()\s]*\)s|[^\s()'\"])+)")
_TEMPLATE = re.compile(r"%\(([^()\s]*)\)s")
_CONSTANTS: Mapping[str, str] = {"True": "True", "False": "False", "None": "None"}
_MISSING = object()
RULE_WHERE = "policy rule "              # and the name: where an error is

BASE_RULES: Mapping[str, str] = {
    "admin_required": "role:admin and is_admin_project:True",
    "system_reader": "role:reader and system_scope:all",
    "project_reader": "role:reader and project_id:%(project_id)s",
    "project_member": "role:member and project_id:%(project_id)s",
    "project_manager": "role:manager and project_id:%(project_id)s",
    "project_reader_or_admin": "rule:admin_required or rule:project_reader",
    "project_member_or_admin": "rule:admin_required or rule:project_member",
    "project_manager_or_admin": "rule:admin_required or rule:project_manager",
    "service_role": "role:service or service_roles:service",
}


class PolicySyntaxError(ValueError):
    """An expression that cannot be read; the message is a sentence."""


class Policy:
    """The rules of one service: the defaults, and what an operator's file puts in their place."""

    def __init__(self, defaults: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> None:
        """Raises `ConfigError` for an unknown name, an expression that cannot be read, or a circle."""
        self.expressions = {**BASE_RULES, **defaults, **(overrides or {})}
        self._checks: dict[str, Check] = {}
        references: dict[str, set[str]] = {}
        for name, text in self.expressions.items():
            try:
                self._checks[name], references[name] = _Parser(text, self._checks).parse()
            except PolicySyntaxError as error:
                raise ConfigError(where=RULE_WHERE + name, reason=str(error)) from error
        for name in references:
            _refuse_circles(name, references, ())

    def allows(self, rule: str, credentials: Mapping[str, object], target: Target) -> bool:
        """Whether the rule lets this caller do it to this target. A rule that nobody declared is a bug."""
        return self._checks[rule](credentials, target)


def parse_expression(text: str, rules: Mapping[str, Check] | None = None) -> Check:
    """One expression on its own. Raises `PolicySyntaxError`."""
    return _Parser(text, rules or {}).parse()[0]


class _Parser:
    """Recursive descent; `rule:` checks look their rule up when they are evaluated."""

    def __init__(self, text: str, rules: Mapping[str, Check]) -> None:
        if len(text) > _CHARS_MAX:
            raise PolicySyntaxError(f"an expression has at most {_CHARS_MAX} characters")
        self._tokens = _tokenize(text)
        self._at = 0
        self._rules = rules
        self._references: set[str] = set()

    def parse(self) -> tuple[Check, set[str]]:
        if not self._tokens:
            return _allow, set()
        check = self._either(0)
        if self._at < len(self._tokens):
            raise PolicySyntaxError(f"{self._tokens[self._at]!r} is not expected here")
        return check, self._references

    def _either(self, depth: int) -> Check:
        checks = [self._both(depth)]
        while self._take("or"):
            checks.append(self._both(depth))
        return checks[0] if len(checks) == 1 else lambda who, target: any(check(who, target) for check in checks)

    def _both(self, depth: int) -> Check:
        checks = [self._one(depth)]
        while self._take("and"):
            checks.append(self._one(depth))
        return checks[0] if len(checks) == 1 else lambda who, target: all(check(who, target) for check in checks)

    def _one(self, depth: int) -> Check:
        if depth > _DEPTH_MAX:
            raise PolicySyntaxError(f"nested deeper than {_DEPTH_MAX}")
        if self._take("not"):
            inner = self._one(depth + 1)
            return lambda who, target: not inner(who, target)
        if self._take("("):
            check = self._either(depth + 1)
            if not self._take(")"):
                raise PolicySyntaxError("a parenthesis is not closed")
            return check
        if self._at >= len(self._tokens):
            raise PolicySyntaxError("ends where a check is expected")
        token = self._tokens[self._at]
        self._at += 1
        return self._check(token)

    def _check(self, token: str) -> Check:
        if token in ("@", "!"):
            return _allow if token == "@" else _refuse
        kind, colon, match = _split(token)
        if not colon or not kind or not match:
            raise PolicySyntaxError(f"{token!r} is no check: write kind:value")
        if kind in ("http", "https"):
            raise PolicySyntaxError("rules that ask another server are not supported")
        if kind == "rule":
            self._references.add(match)
            return _reference(self._rules, match)
        if kind == "role":
            return _role_check(match)
        return _compare(_left(kind), _right(match))

    def _take(self, word: str) -> bool:
        if self._at < len(self._tokens) and (self._tokens[self._at] == word or self._tokens[self._at].lower() == word):
            self._at += 1
            return True
        return False


def _reference(rules: Mapping[str, Check], name: str) -> Check:
    """By name, when it is evaluated: the rule may be read later than this one."""
    def check(who: Mapping[str, object], target: Target) -> bool:
        return rules[name](who, target)
    return check


def _tokenize(text: str) -> list[str]:
    out, at = [], 0
    text = text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise PolicySyntaxError(f"cannot be read from {text[at:at + 20]!r} on")
        out.append(found[1])
        at = found.end()
    return out


def _split(token: str) -> tuple[str, str, str]:
    """At the first colon that is not within quotes."""
    if token[:1] in "'\"" and token.find(token[0], 1) > 0:
        end = token.index(token[0], 1) + 1
        return (token[:end], ":", token[end + 1:]) if token[end:end + 1] == ":" else (token, "", "")
    return token.partition(":")


def _allow(_: Mapping[str, object], __: Target) -> bool:
    return True


def _refuse(_: Mapping[str, object], __: Target) -> bool:
    return False


def _role_check(name: str) -> Check:
    if "%(" not in name:
        wanted = name.lower()
        return lambda who, _: wanted in who["roles"]  # type: ignore[operator]
    right = _right(name)

    def check(who: Mapping[str, object], target: Target) -> bool:
        value = right(target)
        return value is not None and value.lower() in who["roles"]  # type: ignore[operator]
    return check


def _compare(left: Callable[[Mapping[str, object]], object], right: Callable[[Target], str | None]) -> Check:
    def check(who: Mapping[str, object], target: Target) -> bool:
        have, want = left(who), right(target)
        if want is None or have is _MISSING:
            return False
        if isinstance(have, frozenset | set | list | tuple):
            return any(str(item) == want for item in have)
        return str(have) == want
    return check


def _left(text: str) -> Callable[[Mapping[str, object]], object]:
    if text[:1] in "'\"":
        literal = text[1:-1]
        return lambda _: literal
    if text in _CONSTANTS or text.lstrip("-").isdigit():
        return lambda _: text

    def look(who: Mapping[str, object]) -> object:
        value = who.get(text, _MISSING)
        return _MISSING if value is None else value
    return look


def _right(text: str) -> Callable[[Target], str | None]:
    if text[:1] in "'\"" and text[-1] == text[0] and len(text) > 1:
        text = text[1:-1]
    names = _TEMPLATE.findall(text)
    if not names:
        return lambda _: text
    if _TEMPLATE.fullmatch(text):
        (name,) = names
        return lambda target: _attribute(target, name)

    def fill(target: Target) -> str | None:
        values = {name: _attribute(target, name) for name in names}
        if None in values.values():
            return None
        return _TEMPLATE.sub(lambda found: str(values[found[1]]), text)
    return fill


def _attribute(target: Target, name: str) -> str | None:
    """By its whole dotted name. An attribute that is None compares as "None", one that is not there as nothing."""
    value: Any = target.get(name, _MISSING)
    return None if value is _MISSING else str(value)


def _refuse_circles(name: str, references: Mapping[str, set[str]], path: tuple[str, ...]) -> None:
    if name in path:
        raise ConfigError(where=RULE_WHERE + path[0], reason=f"refers to itself: {' -> '.join((*path, name))}")
    for other in references[name]:
        if other not in references:
            raise ConfigError(where=RULE_WHERE + name, reason=f"there is no rule {other!r}{hint(other, references)}")
        _refuse_circles(other, references, (*path, name))

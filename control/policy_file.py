"""An operator's policy file: YAML, rule names to expressions, in the place of defaults. Every mistake is named with its line."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from common.config import hint
from common.errors import ConfigError
from control.policy import RULE_WHERE, Policy


def load_policy(path: Path, defaults: Mapping[str, str]) -> Policy:
    """The default rules and the file's over them. Raises `ConfigError`: where is FILE:LINE."""
    overrides, lines = _load(path, defaults)
    try:
        return Policy(defaults, overrides)
    except ConfigError as error:
        line = lines.get(str(error.fields["where"]).removeprefix(RULE_WHERE))
        if line is None:
            raise
        raise ConfigError(where=f"{path}:{line}", reason=f"{error.fields['where']} {error.fields['reason']}") from error


def load_overrides(path: Path, known: Iterable[str]) -> dict[str, str]:
    """The rules of the file. Raises `ConfigError`; a name that no route uses may be referred to by another rule."""
    return _load(path, known)[0]


def _load(path: Path, known: Iterable[str]) -> tuple[dict[str, str], dict[str, int]]:
    """(rules, line of each)."""
    import yaml

    try:
        text = path.read_text()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        rows = yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(where=place, reason=f"the policy file is no YAML: {error.problem or error.context}") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(where=str(path), reason=f"the policy file cannot be read: {error}") from error
    if not isinstance(rows, dict):
        raise ConfigError(where=str(path), reason="a policy file is a mapping of rule names to expressions")
    lines = {key.value: key.start_mark.line + 1 for key, _ in root.value} if root is not None else {}
    names = set(known)
    for name, expression in rows.items():
        where = f"{path}:{lines.get(str(name), 1)}"
        if not isinstance(name, str) or not isinstance(expression, str):
            raise ConfigError(where=where, reason=f"rule {name!r}: both name and expression are strings")
        if ":" in name and name not in names:
            raise ConfigError(where=where, reason=f"there is no operation {name!r}{hint(name, names)}")
    return dict(rows), lines

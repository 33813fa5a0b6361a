"""Every reason that the control plane gives has a sentence for the operator."""
from __future__ import annotations

import re
from pathlib import Path

from cli.explain_control import CONTROL_RULES

ROOT = Path(__file__).parents[3]
_GIVEN = re.compile(r'because\(\s*"([a-z0-9_.]+)"')


def given_rules() -> set[str]:
    files = [path for package in ("control", "identity") for path in (ROOT / package).rglob("*.py")]
    return {rule for path in files for rule in _GIVEN.findall(path.read_text())}


def test_every_rule_has_a_row_and_every_row_a_rule():
    assert given_rules() == set(CONTROL_RULES)


def test_the_search_finds_rules():
    assert {"policy", "token.missing", "login.wrong_password"} <= given_rules()

"""One event is one line, whatever clients put into its fields."""
from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from common.log import INFO, format_json, format_text

FIELDS = st.dictionaries(st.text("abc_", min_size=1), st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.none()))


@given(st.text(), FIELDS)
def test_a_text_line_is_one_printable_line(event, fields):
    line = format_text("T", INFO, "n", event, fields)
    assert line.endswith("\n") and line[:-1].isprintable()


@given(st.text(), FIELDS)
def test_a_json_line_is_one_object_with_every_field(event, fields):
    line = format_json("T", INFO, "n", event, fields)
    assert line.count("\n") == 1
    assert set(json.loads(line, parse_constant=_refuse)) == {"time", "level", "logger", "event", *fields}


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")

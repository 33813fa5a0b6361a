"""Lines of keys, and text that is no configuration, for every input."""
from __future__ import annotations

import json
import string
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from common.config import build_config
from common.configfile import parse_config_text
from common.errors import ConfigError
from node.config import HoldfastConfig

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=6)
STRINGS = st.text(st.characters(min_codepoint=32, max_codepoint=126))
VALUES = st.one_of(
    st.integers(-10, 10).map(str), st.booleans().map(json.dumps), STRINGS.map(json.dumps),
    st.lists(STRINGS.map(json.dumps)).map(lambda parts: "[\n  " + ",  # ] x = 1\n  ".join(parts) + "\n]"),
    st.text("ab =[]{}#\n", max_size=12).map(lambda text: f'"""{text}"""'),
    st.text("ab =[]#\n\"", max_size=8).map(lambda text: f"'''{text}'''"),
    STRINGS.map(lambda text: "{ x = " + json.dumps(text) + " }"),
)
TABLES = st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=4)


@given(TABLES, st.booleans())
def test_every_key_of_a_file_is_found_on_its_line(tables, is_rows):
    lines: list[str] = []
    expected = {}
    for table, keys in tables.items():
        path = (table, 0) if is_rows else (table,)
        lines.append(f"[[{table}]]" if is_rows else f"[{table}]  # a table")
        expected[path] = len(lines)
        for key, value in keys.items():
            expected[*path, key] = len(lines) + 1
            lines += f"{key} = {value}".split("\n")
    assert parse_config_text("\n".join(lines), path=Path("f")).lines == expected


@given(st.one_of(st.text(), st.text("[]{}=\"'#\nab.,1 ")))
def test_any_text_is_a_configuration_or_refused_with_its_place(text):
    try:
        build_config(HoldfastConfig, parse_config_text(text, path=Path("f")))
    except ConfigError as error:
        assert str(error.fields["where"]).startswith("f")
        assert error.fields["reason"]

"""Patterns of request paths, as access rules of application credentials have them.

`*` and `{name}` are one segment, or a part of one; `**` is any number of segments.
"""
from __future__ import annotations

import re
from functools import lru_cache

_WILD = re.compile(r"(\*\*|\*|\{[^{}/]*\})")


@lru_cache(maxsize=1_024)
def path_pattern(path: str) -> re.Pattern[str]:
    """To be matched in full."""
    return re.compile("".join(".*" if part == "**" else "[^/]+" if part == "*" or part[:1] == "{" else re.escape(part)
                              for part in _WILD.split(path)), re.DOTALL)

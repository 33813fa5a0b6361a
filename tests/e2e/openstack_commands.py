"""Runs `openstack` commands in one process, one per line of standard input: python openstack_commands.py CLOUD.

A line is [NAME=]ARGUMENTS; {NAME} in later lines is the id that an earlier command answered. Prints a JSON line per command: its
line, exit code, and what it printed. One process, because the client takes over a second to import.
"""
from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys

from openstackclient.shell import main

_NAMED = re.compile(r"(\w+)=(.*)")


def run(cloud: str, line: str, names: dict[str, str]) -> dict[str, object]:
    named = _NAMED.fullmatch(line)
    name, text = (named[1], named[2]) if named else (None, line)
    arguments = shlex.split(text.format(**names))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["--os-cloud", cloud, *arguments, *(["-f", "json"] if name else [])])
        except SystemExit as error:
            code = error.code
    if name and code == 0:
        row = json.loads(out.getvalue())
        names[name] = str(row.get("id") or row.get("ID") or row.get("access"))
        names.update({f"{name}_{key}": str(value) for key, value in row.items() if key in ("secret", "access")})
    return {"line": line, "code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    known: dict[str, str] = {}
    for each in sys.stdin.read().splitlines():
        if each.strip():
            print(json.dumps(run(sys.argv[1], each.strip(), known)), flush=True)

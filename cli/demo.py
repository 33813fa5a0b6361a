"""Files that let the demo user's clients log in without a key on any command line: `DIR/demo.env` and `DIR/demo.curl`.

Both are 0600 and written whenever a node begins to serve; a node with users of its own has none. The arguments of a process can be
read by every user of the machine, its environment by its own user only.
"""
from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.files import write_private

ENV_FILE, CURL_FILE = "demo.env", "demo.curl"


def save_demo_files(root: Path, endpoint: Mapping[str, Any]) -> None:
    """Write both, or, when the node has no demo user, remove what an earlier run left. Raises `OSError`."""
    if "demo" not in endpoint:
        for name in (ENV_FILE, CURL_FILE):
            (root / name).unlink(missing_ok=True)
        return
    write_private(root / ENV_FILE, format_env(endpoint).encode())
    write_private(root / CURL_FILE, format_curl(endpoint).encode())


def format_env(endpoint: Mapping[str, Any]) -> str:
    """What `swift` and `rclone` read, for `. DIR/demo.env` in a POSIX shell."""
    demo = endpoint["demo"]
    values = {"ST_AUTH": endpoint["urls"]["auth"], "ST_USER": demo["user"], "ST_KEY": demo["key"]}
    if "tls_cert" in endpoint:                   # each client has its own name for "trust this"
        values |= {"OS_CACERT": endpoint["tls_cert"], "RCLONE_CA_CERT": endpoint["tls_cert"]}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def format_curl(endpoint: Mapping[str, Any]) -> str:
    """A configuration with which curl logs in and prints another one, which holds the token: `curl -K ... | curl -K - URL`."""
    demo = endpoint["demo"]
    token = 'header = "X-Auth-Token: %header{x-auth-token}"\n'
    lines = [("url", endpoint["urls"]["auth"]), ("header", f"X-Auth-User: {demo['user']}"),
             ("header", f"X-Auth-Key: {demo['key']}")]
    if "tls_cert" in endpoint:
        lines.append(("cacert", endpoint["tls_cert"]))
        token += f"cacert = {_quote(endpoint['tls_cert'])}\n"
    lines += [("output", "/dev/null"), ("write-out", token.replace("%", "%%").replace("%%header{", "%header{"))]
    return "silent\nshow-error\nfail\n" + "".join(f"{name} = {_quote(value)}\n" for name, value in lines)


def _quote(text: str) -> str:
    """As curl reads a value in quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

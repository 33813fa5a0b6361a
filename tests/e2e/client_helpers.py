"""What the tests of stock clients share: a node over HTTP or TLS, a directory tree with every kind of name and size, programs."""
from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Node

SCHEMES = ("http", "https")
SIZES = {"one byte": 1, "edge/64k-1": 65_535, "edge/64k": 65_536, "edge/64k+1": 65_537, "3 MiB.bin": 3 << 20,
         "big/30 MiB.bin": 30 << 20}
NAMES = ("a.txt", "with space.txt", "100%.txt", "per%20cent.txt", "plus+and&.txt", "semi;colon?question#hash.txt", "quote'\".txt",
         "deep/er.txt",
         "\u00fcml\u00e4ut/\u20ac.bin", "\u65e5\u672c/\U0001f600.txt", "deep/er/est/file", "[brackets]{braces}", "dot.d/.hidden")


def make_certificate(directory):
    """(certificate, key) of 127.0.0.1, signed by itself, made by openssl."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


@contextmanager
def running(directory, scheme, *lines):
    """A node of its own, with `lines` in its configuration."""
    text = list(lines)
    if scheme == "https":
        cert, key = make_certificate(directory)
        text += ["[tls]", f'cert = "{cert}"', f'key = "{key}"']
    config = directory / "holdfast.toml"
    config.write_text("\n".join([*text, ""]))
    config.chmod(0o600)
    node = Node(directory / "state", "--config", str(config))
    node.up()
    try:
        assert node.endpoint["urls"]["auth"].startswith(scheme + "://")
        pids = node.pids
        yield node
        assert node.pids == pids, f"a process was replaced:\n{node.log()}"
        assert " error " not in node.log(), node.log()
    finally:
        node.kill()


def need_program(name):
    """Its path; in this environment or on the machine.

    Root has it installed by `./holdfast test`, so there a missing client is a failure; for others it is a skip that says so.
    """
    found = shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))))
    if found is None:
        give_up = pytest.fail if os.geteuid() == 0 or os.environ.get("CI") else pytest.skip
        give_up(f"{name} is not installed")
    return found


class Program:
    """A client that is a program. Its environment names nothing of the machine's own, no proxy above all."""

    def __init__(self, name, home, **environ):
        self.path, self.home = need_program(name), home
        self.environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LC_ALL": "C.UTF-8", "NO_PROXY": "*",
                        "PYTHONWARNINGS": "ignore", **environ}

    def run(self, *arguments, status=0, data=b""):
        """Its standard output, bytes."""
        done = subprocess.run([self.path, *map(str, arguments)], env=self.environ, cwd=self.home, input=data, capture_output=True,
                              timeout=120, check=False)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stderr[-2000:]!r}\n{done.stdout[-1000:]!r}"
        return done.stdout

    def lines(self, *arguments):
        return self.run(*arguments).decode().splitlines()


def make_tree(root):
    """Files of every size that matters and names of every kind. What is in them differs."""
    chance = random.Random(7)
    for name in NAMES:
        write(root / name, f"this is {name}\n".encode())
    for name, size in SIZES.items():
        write(root / name, chance.randbytes(size))
    write(root / "empty", b"")
    return read_tree(root)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_tree(root):
    """Relative name -> bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def same(found, expected):
    """Trees compare without printing 30 MiB when they differ."""
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def device_files(node):
    """Every file in bodies/ and tmp/ of every device, below the device's directory."""
    devices = node.root / "devices"
    return sorted(str(path.relative_to(devices)) for device in devices.iterdir() for part in ("bodies", "tmp")
                  for path in (device / part).rglob("*") if path.is_file())

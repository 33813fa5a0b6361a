"""Compiles bench/load.c on first use into a cache that only this user can change.

The name of the program has a checksum of source and compiler, so a changed source or another compiler makes a new one, and no
dates are compared. Without a compiler that works there is none, and the caller takes bench/python_load.py.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from common.errors import BenchFailed

SOURCE = Path(__file__).parent / "load.c"
_FLAGS = ("-O2",)
_COMPILE_TIMEOUT_S = 120


def cache_dir(environ: Mapping[str, str]) -> Path:
    """The cache of `holdfast bench`, made with mode 0700. Raises `BenchFailed` for one that others could have changed."""
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    path = Path(base) / "holdfast-bench"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise BenchFailed(reason=f"{path} cannot be made: {error.strerror}; set XDG_CACHE_HOME") from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise BenchFailed(reason=f"{path} must belong to you with mode 0700, because programs are run from it")
    return path


def build_load(environ: Mapping[str, str]) -> Path | str:
    """The compiled load generator, or a sentence that says why there is none. Raises `BenchFailed`."""
    name = environ.get("CC") or "cc"
    compiler = shutil.which(name, path=environ.get("PATH"))
    if compiler is None:
        return f"there is no C compiler ({name}) in PATH"
    program = cache_dir(environ) / f"load-{_checksum(compiler, environ)}"
    if program.exists():
        return program
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder) / "load"
        done = _run([compiler, *_FLAGS, "-o", str(made), str(SOURCE)], environ)
        if done is None or done.returncode != 0:
            said = "no answer" if done is None else (done.stderr.strip().splitlines() or ["no reason given"])[0]
            return f"{compiler} cannot compile {SOURCE.name}: {said}"
        made.rename(program)                 # whole or not at all, also with two at once
    return program


def _checksum(compiler: str, environ: Mapping[str, str]) -> str:
    """Of source, flags and what the compiler says of itself."""
    version = _run([compiler, "--version"], environ)
    parts = (SOURCE.read_bytes(), " ".join(_FLAGS).encode(), compiler.encode(), version.stdout.encode() if version else b"")
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _run(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=_COMPILE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None

"""A commit of this checkout as a system that runs: its files, an environment with its dependencies, a store, and its end.

Files come from `git archive`, so the checkout itself is not touched and has nothing to forget afterwards. A commit with the
dependencies of this one runs in this environment; for another one a venv is made once and kept in the cache of `holdfast bench`.
"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from bench.target import Login
from common.errors import BenchFailed

HERE = "."                                   # in the place of a commit: the checkout as it is, changed and new files included
ROOT = Path(__file__).parent.parent
_START_TIMEOUT_S, _STOP_TIMEOUT_S, _VENV_TIMEOUT_S = 120, 90, 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One side of a comparison, in a folder of its own."""

    commit: str
    folder: Path
    python: str = sys.executable

    @property
    def state(self) -> Path:
        """Of its store; short, because sockets are in it."""
        return self.folder / "s"

    def start(self) -> Login:
        """A store of its own on free ports; the login of its demo user. Raises `BenchFailed`."""
        config = self.folder / "empty.toml"
        config.touch()
        try:
            self._holdfast("up", "--config", str(config), "--data", str(self.state), "--listen", "127.0.0.1:0",
                           "--admin-listen", "127.0.0.1:0", "--detach", timeout_s=_START_TIMEOUT_S)
        except BaseException:                # it may run all the same: it is detached
            self.stop()
            raise
        fields: dict[str, Any] = json.loads((self.state / "endpoint.json").read_text())
        return Login(auth_url=fields["urls"]["auth"], user=fields["demo"]["user"], key=fields["demo"]["key"],
                     root_pid=fields["pids"]["supervisor"])

    def stop(self, login: Login | None = None) -> None:
        """Its end, by force if need be and if it is known whom to force."""
        try:
            self._holdfast("down", "--data", str(self.state), timeout_s=_STOP_TIMEOUT_S)
        except BenchFailed:
            if login is not None and login.root_pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(login.root_pid, signal.SIGKILL)

    def _holdfast(self, *arguments: str, timeout_s: float) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        environ |= {"PYTHONPATH": str(self.folder / "tree"), "PYTHONSAFEPATH": "1"}
        command = [self.python, "-m", "cli", *arguments]
        try:
            done = subprocess.run(command, cwd=self.folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise BenchFailed(reason=f"{self.commit}: holdfast {arguments[0]} did not end within {timeout_s} s") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-800:]
            raise BenchFailed(reason=f"{self.commit}: holdfast {arguments[0]} failed: {said}")


def make_tree(commit: str, folder: Path, cache: Path, *, say: Callable[[str], None], root: Path = ROOT) -> Tree:
    """Write the files of `commit` to `folder`/tree and find or make its environment. Raises `BenchFailed`."""
    files = folder / "tree"
    files.mkdir(parents=True)
    if commit == HERE:
        _copy_checkout(root, files)
        name = "the checkout"
    else:
        name = find_commit(commit, root)
        with tarfile.open(fileobj=BytesIO(_git(root, "archive", "--format=tar", name))) as archive:
            archive.extractall(files)    # of git archive, our own; filters are not in every 3.11
    return Tree(commit=name, folder=folder, python=_find_python(files, root, cache, say))


def find_commit(commit: str, root: Path = ROOT) -> str:
    """Its full name. Raises `BenchFailed`."""
    return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}", what=commit).decode().strip()


def requirements(project_file: Path) -> tuple[str, ...]:
    """What has to be installed for the tree of this pyproject.toml. Raises `BenchFailed`."""
    try:
        with project_file.open("rb") as file:
            return tuple(sorted(tomllib.load(file)["project"]["dependencies"]))
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise BenchFailed(reason=f"{project_file.name} of this commit cannot be used: {error}") from error


def _copy_checkout(root: Path, files: Path) -> None:
    for name in _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0"):
        source = root / name
        if name and source.is_file():
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, files / name)


def _find_python(files: Path, root: Path, cache: Path, say: Callable[[str], None]) -> str:
    wanted = requirements(files / "pyproject.toml")
    if wanted == requirements(root / "pyproject.toml"):
        return sys.executable
    sum_ = hashlib.sha256("\n".join((sys.version, *wanted)).encode()).hexdigest()[:16]
    venv = cache / f"env-{sum_}"
    if not (venv / "ready").exists():
        say(f"making {venv} for other dependencies, takes a minute")
        shutil.rmtree(venv, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(venv)])
        _run([str(venv / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted])
        (venv / "ready").touch()
    return str(venv / "bin/python")


def _git(root: Path, *arguments: str, what: str = "") -> bytes:
    clean: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], env=clean, stdin=subprocess.DEVNULL, capture_output=True,
                              check=False)
    except OSError as error:
        raise BenchFailed(reason=f"git is needed to compare commits: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise BenchFailed(reason=said or f"{what!r} is no commit of {root}")
    return done.stdout


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_VENV_TIMEOUT_S,
                              check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchFailed(reason=f"an environment cannot be made: {error}") from error
    if done.returncode != 0:
        raise BenchFailed(reason=f"an environment cannot be made: {done.stderr.strip()[-800:]}")

"""The environment that `holdfast install` makes: a Python environment of its own with our packages and what they need.

Everything is copied from where the command itself runs (a checkout with its .venv, or an installed wheel): no network, and the very
files that were tested there. An environment is made at its final place, gets its stamp last, and becomes the current one by
one rename of a symbolic link; a running node keeps the one it was started from.

    PREFIX/envs/NAME/         bin/python, bin/holdfast, lib/...; holdfast.json: version, fingerprint, written last
    PREFIX/current            -> envs/NAME
    PREFIX/previous           -> the one before, for `holdfast install --rollback`
"""
from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.version import VERSION

HOME = Path(__file__).resolve().parent.parent            # where the packages of this command are
STAMP = "holdfast.json"
_PYTHON_MIN = (3, 11)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SKIPPED = ("__pycache__", "*.pyc", "*.pyo")
_COMMAND = """\
#!/bin/sh
# The real path: a node that runs keeps its own environment when another one becomes the current one.
exec "$(dirname "$(readlink -f "$0")")/python" -P -m cli "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an environment is made of. fingerprint: the same for the same files and the same Python."""

    packages: tuple[Path, ...]                   # our folders
    distributions: tuple[importlib.metadata.Distribution, ...]
    fingerprint: str

    @property
    def name(self) -> str:
        """Of the folder."""
        return f"{VERSION}-{self.fingerprint[:12]}"


def find_parts(home: Path = HOME) -> Parts:
    """What this command runs from: a checkout, an installed wheel, or what was installed by itself. Raises `ConfigError`."""
    check_python()
    made_of = _read_stamp(Path(sys.prefix)) if home.is_relative_to(sys.prefix) and not (home / "pyproject.toml").exists() else None
    names, needed = (made_of["packages"], made_of["needs"]) if made_of is not None else _read_project(home)
    packages = tuple(home / name for name in sorted(names) if (home / name / "__init__.py").exists())
    if home / "cli" not in packages:
        raise ConfigError(where=str(home), reason="this is neither a checkout nor an installed wheel: there is nothing to "
                          "install from")
    distributions = tuple(_find_distributions(needed))
    return Parts(packages=packages, distributions=distributions, fingerprint=_fingerprint(packages, distributions))


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> None:
    """Raises `ConfigError` for a Python that is too old."""
    if version[:2] < _PYTHON_MIN:
        raise ConfigError(where=sys.executable, reason=f"this is Python {'.'.join(map(str, version))}; Holdfast needs 3.11 or "
                          "newer. Install one and name it: HOLDFAST_PYTHON=/usr/bin/python3.11 ./holdfast install")


def _read_stamp(place: Path) -> dict[str, Any] | None:
    """What an environment says of itself; None if it is none of ours, or not complete."""
    try:
        stamp: dict[str, Any] = json.loads((place / STAMP).read_text())
        return stamp
    except (OSError, ValueError):
        return None


def _read_project(home: Path) -> tuple[list[str], list[str]]:
    """Names of our top-level folders, those that a wheel would hold, and what we need. Raises `ConfigError`."""
    project = home / "pyproject.toml"
    if project.exists():
        facts = tomllib.loads(project.read_text())
        patterns = facts["tool"]["setuptools"]["packages"]["find"]["include"]
        names = [path.name for path in home.iterdir() if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]
        return names, facts["project"]["dependencies"]
    try:
        files = importlib.metadata.files("holdfast") or []
        return list({file.parts[0] for file in files if len(file.parts) > 1}), importlib.metadata.requires("holdfast") or []
    except importlib.metadata.PackageNotFoundError:
        return [], []


def _find_distributions(needed: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """What we need, and what that needs. Raises `ConfigError` for one that is not installed."""
    seen: set[str] = set()
    open_names = [(requirement, "Holdfast") for requirement in needed]
    while open_names:
        requirement, by = open_names.pop(0)
        marker = requirement.partition(";")[2]
        found = _NAME.match(requirement)
        if found is None or "extra" in marker:
            continue
        name = re.sub(r"[-_.]+", "-", found[0]).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            if marker:                           # for another Python or system
                continue
            raise ConfigError(where=name, reason=f"{by} needs it and it is not installed here; in a checkout run ./holdfast "
                              "install, else install the wheel with pip, which brings it") from error
        yield distribution
        open_names += [(more, name) for more in distribution.requires or []]


def _fingerprint(packages: tuple[Path, ...], distributions: tuple[importlib.metadata.Distribution, ...]) -> str:
    digest = hashlib.sha256(f"{sys.version}\0{sys.platform}\0{_base_python()}".encode())
    for package in packages:
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"\0{path.relative_to(package.parent)}\0".encode() + path.read_bytes())
    for distribution in distributions:
        digest.update(f"\0{distribution.metadata['Name']} {distribution.version}".encode())
    return digest.hexdigest()


def _base_python() -> str:
    """The interpreter under the environment that this runs in."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


class Environments:
    """Those below one prefix, such as /opt/holdfast."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix

    def stamp_of(self, link: str) -> dict[str, Any] | None:
        """What the environment behind `link` (current, previous) says of itself; None if there is none."""
        return _read_stamp(self.prefix / link)

    def is_current(self, parts: Parts) -> bool:
        """Whether there is nothing to make."""
        stamp = self.stamp_of("current")
        return stamp is not None and stamp.get("fingerprint") == parts.fingerprint

    def make(self, parts: Parts) -> Path:
        """A complete environment, not yet the current one. Raises `OSError`, `ConfigError`."""
        place = self.prefix / "envs" / parts.name
        if (place / STAMP).exists():
            return place
        shutil.rmtree(place, ignore_errors=True)                 # of an install that broke off
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _run(_base_python(), "-m", "venv", "--without-pip", "--symlinks", str(place))
        packages = next((place / "lib").glob("python3*")) / "site-packages"
        for package in parts.packages:
            shutil.copytree(package, packages / package.name, ignore=shutil.ignore_patterns(*_SKIPPED))
        for distribution in parts.distributions:
            _copy_distribution(distribution, packages)
        for script in (place / "bin").iterdir():                 # of venv: they name the place where it was made
            if not script.name.startswith("python"):
                script.unlink()
        command = place / "bin" / "holdfast"
        command.write_text(_COMMAND)
        command.chmod(0o755)
        _run(str(place / "bin" / "python"), "-P", "-m", "compileall", "-q", str(packages))
        _open_to_all(place)
        _run(str(command), "version")                            # it has to run before it may become the current one
        stamp = {"version": VERSION, "fingerprint": parts.fingerprint, "python": sys.version.split()[0],
                 "packages": [package.name for package in parts.packages],
                 "needs": [distribution.metadata["Name"] for distribution in parts.distributions]}
        (place / STAMP).write_text(json.dumps(stamp))
        (place / STAMP).chmod(0o644)
        return place

    def switch(self, place: Path) -> None:
        """Make `place` the current one, remember the one before, and remove all others. Raises `OSError`."""
        before = self._target("current")
        if before is not None and before != place.name:
            self._link("previous", before)
        self._link("current", place.name)
        kept = {place.name, self._target("previous")}
        for other in (self.prefix / "envs").iterdir():
            if other.name not in kept:
                shutil.rmtree(other)

    def roll_back(self) -> None:
        """Exchange current and previous. Raises `ConfigError` if there is no previous one."""
        current, previous = self._target("current"), self._target("previous")
        if current is None or previous is None or not (self.prefix / "envs" / previous / STAMP).exists():
            raise ConfigError(where=str(self.prefix / "previous"), reason="there is no environment to go back to")
        self._link("current", previous)
        self._link("previous", current)

    def remove(self) -> None:
        """All of them, and the prefix if nothing else is in it. Raises `OSError`."""
        for link in ("current", "previous"):
            (self.prefix / link).unlink(missing_ok=True)
        if (self.prefix / "envs").exists():
            shutil.rmtree(self.prefix / "envs")
        if self.prefix.exists() and not any(self.prefix.iterdir()):
            self.prefix.rmdir()

    def _target(self, link: str) -> str | None:
        try:
            return Path(os.readlink(self.prefix / link)).name
        except OSError:
            return None

    def _link(self, link: str, name: str) -> None:
        temporary = self.prefix / f".{link}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("envs") / name)
        temporary.rename(self.prefix / link)


def _copy_distribution(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    """Its files as its record names them; not its scripts, and nothing outside of site-packages."""
    files = distribution.files
    if not files:
        raise ConfigError(where=distribution.metadata["Name"], reason="has no list of its files, so it cannot be copied; "
                          "install it with pip")
    for file in files:
        if ".." in file.parts or "__pycache__" in file.parts or not file.parts:
            continue
        source, target = Path(str(distribution.locate_file(file))), packages / Path(*file.parts)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _open_to_all(place: Path) -> None:
    """Readable whatever the umask was: the node is not root."""
    for directory, _, names in os.walk(place):
        os.chmod(directory, 0o755)
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def _run(*command: str) -> None:
    """Raises `ConfigError` with what it said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HOLDFAST_"))}
    done = subprocess.run(command, env=clean, cwd="/", text=True, capture_output=True, check=False)
    if done.returncode:
        raise ConfigError(where=" ".join(command), reason=(done.stderr or done.stdout).strip()
                          or f"ended with exit code {done.returncode}")

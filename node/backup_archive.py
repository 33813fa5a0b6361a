"""The archive of a backup: a directory, or an uncompressed tar of one, with a manifest that says what has to be in it.

    manifest.json                  {"holdfast-backup": 1, "sha256": of the body's canonical JSON, "body": {...}}
    state/cluster.json             and state/secrets/, state/rings/, state/policy/ as in the state directory
    config/holdfast.toml           the configuration that was in effect, if it came from a file
    databases/<service>/...        one dump per service (`control/dump.py`)

body: created_us, version, cluster, node, databases (service, kind, tables, revisions, columns), notes, files: path, size_bytes,
sha256, mode. Uncompressed, so that damage hits one file and can be named. What the manifest does not name is not used.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from common.errors import Corruption, NotFound

FORMAT, MAGIC, MANIFEST = 1, "holdfast-backup", "manifest.json"
_PIECE_BYTES = 1 << 20
_NAMES = re.compile(r"""state/cluster\.json | state/(secrets|policy)/[^/\0]+ | state/secrets/(token|credential)-keys/[0-9]+
    | state/rings/[^/\0]+/[^/\0]+ | config/holdfast\.toml | databases/[a-z]+/[A-Za-z0-9_.]+""", re.VERBOSE)
_MANIFEST_BYTES_MAX = 64 << 20


class Archive(Protocol):
    """Files by their path in the archive."""

    def names(self) -> list[str]:
        """All of them."""

    def strange(self) -> list[str]:
        """What is there besides: links, devices and the like, and a name that is there twice. Directories are no matter."""

    def open(self, name: str) -> IO[bytes]:
        """Raises `OSError`, `KeyError`."""


class DirectoryArchive:
    """Below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        return [name for name, mode in self._entries() if stat.S_ISREG(mode)]

    def strange(self) -> list[str]:
        return [name for name, mode in self._entries() if not stat.S_ISREG(mode)]

    def _entries(self) -> list[tuple[str, int]]:
        """(path, mode) of all that is no directory; a link to a directory is a link, and is not followed."""
        found = []
        for directory, below, files in os.walk(self._root):
            for name in (*below, *files):
                path = Path(directory, name)
                mode = path.lstat().st_mode
                if not stat.S_ISDIR(mode):
                    found.append((str(path.relative_to(self._root)), mode))
        return sorted(found)

    def open(self, name: str) -> IO[bytes]:
        return (self._root / name).open("rb")


class TarArchive:
    """In a tar file. One that is cut short or broken has the files before the damage."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "r:")             # noqa: SIM115 - open as long as this is used
        self._members: dict[str, tarfile.TarInfo] = {}
        self._strange: list[str] = []
        self.damage = ""
        try:
            for member in self._tar:
                if not member.isdir() and (not member.isfile() or member.name in self._members):
                    self._strange.append(member.name)
                elif member.isfile():
                    self._members[member.name] = member
        except (tarfile.TarError, EOFError, OSError) as error:
            self.damage = str(error)

    def names(self) -> list[str]:
        return sorted(self._members)

    def strange(self) -> list[str]:
        return sorted(self._strange)

    def open(self, name: str) -> IO[bytes]:
        found = self._tar.extractfile(self._members[name])
        assert found is not None, name
        return found


def open_archive(path: Path) -> Archive:
    """Raises `NotFound`, `Corruption` for a file that is no archive."""
    if path.is_dir():
        return DirectoryArchive(path)
    try:
        return TarArchive(path)
    except FileNotFoundError as error:
        raise NotFound(what="backup", name=str(path), reason=f"there is no {path}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Corruption(what=str(path), reason=f"{path} is no backup, or damaged at its begin: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archive says of itself."""

    body: Mapping[str, Any]

    @property
    def files(self) -> dict[str, Mapping[str, Any]]:
        """By path."""
        return {row["path"]: row for row in self.body["files"]}


def write_manifest(root: Path, body: Mapping[str, Any]) -> None:
    """Over all files below `root`; each and the directory are durable when this returns."""
    files = []
    for name in DirectoryArchive(root).names():
        with (root / name).open("rb") as file:
            size, digest = _digest(file)
            os.fsync(file.fileno())
        files.append({"path": name, "size_bytes": size, "sha256": digest, "mode": (root / name).stat().st_mode & 0o777})
    whole = {**body, "files": files}
    with (root / MANIFEST).open("w") as out:
        json.dump({MAGIC: FORMAT, "sha256": _digest(io.BytesIO(_canonical(whole)))[1], "body": whole}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    (root / MANIFEST).chmod(0o600)


def read_manifest(archive: Archive) -> Manifest:
    """Raises `Corruption`."""
    try:
        with archive.open(MANIFEST) as file:
            stored = json.loads(file.read(_MANIFEST_BYTES_MAX))
        form, body, digest = stored[MAGIC], stored["body"], stored["sha256"]
    except (OSError, KeyError, ValueError, TypeError, EOFError, tarfile.TarError) as error:
        raise Corruption(what=MANIFEST, reason=f"{MANIFEST} is missing or damaged ({type(error).__name__}): this is no backup, or "
                                               "not a whole one") from error
    if form != FORMAT:
        raise Corruption(what=MANIFEST, reason=f"the backup has format {form}; this version knows {FORMAT}")
    if _digest(io.BytesIO(_canonical(body)))[1] != digest:
        raise Corruption(what=MANIFEST, reason=f"{MANIFEST} is damaged: its checksum does not match")
    return Manifest(body=body)


def find_damage(archive: Archive, manifest: Manifest) -> Iterator[str]:
    """A sentence for each file that is missing, damaged, or not in the manifest."""
    names, files = set(archive.names()), manifest.files
    for name, row in files.items():
        if name not in names:
            yield f"{name} is missing"
            continue
        try:
            with archive.open(name) as file:
                size, digest = _digest(file)
        except (OSError, EOFError, tarfile.TarError) as error:
            yield f"{name} cannot be read: {error}"
            continue
        if size != row["size_bytes"]:
            yield f"{name} has {size} bytes, not {row['size_bytes']}"
        elif digest != row["sha256"]:
            yield f"{name} is damaged: its checksum does not match"
    for name in sorted(names - set(files) - {MANIFEST}):
        yield f"{name} does not belong to the backup"
    for name in archive.strange():
        yield f"{name} does not belong to the backup: it is no plain file, or is there twice"
    damage = getattr(archive, "damage", "")
    if damage:
        yield f"the archive is cut short or broken: {damage}"


def extract(archive: Archive, name: str, target: Path, *, mode: int = 0o600) -> None:
    """One file, durable."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as out, archive.open(name) as file:
        while piece := file.read(_PIECE_BYTES):
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())


def is_ours(name: str) -> bool:
    """Whether a backup has a file of that name: no other place of a state directory is ever written to from an archive.

    Files directly in secrets/ and policy/ may have any name: operators keep keys of users there (`key_file`).
    """
    return _NAMES.fullmatch(name) is not None and not {".", ".."} & set(name.split("/"))


def pack_tar(root: Path, target: Path) -> None:
    """The files below `root`, manifest first, into a new file of mode 0600. Raises `FileExistsError`."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in (MANIFEST, *(name for name in DirectoryArchive(root).names() if name != MANIFEST)):
                tar.add(root / name, arcname=name, recursive=False, filter=_anonymous)
        out.flush()
        os.fsync(out.fileno())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _digest(file: IO[bytes]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        size += len(piece)
        digest.update(piece)
    return size, digest.hexdigest()


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

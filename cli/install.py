"""`holdfast install`: a user, an environment, a configuration, a state directory, a systemd unit, the command and its completion.

A list of steps, each of which looks first: what is as it should be is left alone, so a second run is an upgrade and says what it
changed. `--dry-run` prints what the steps would do; `--root DIR` does it below DIR, for packages and containers.
"""
from __future__ import annotations

import argparse
import grp
import os
import pwd
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli import unit
from cli.completion import PLACES, make_completion
from cli.config_cmd import sample_text
from cli.environment import Environments, find_parts
from common.address import parse_address
from common.config import Loaded
from common.errors import ConfigError, Conflict
from node.config import HoldfastConfig, load_config
from node.files import find_running
from node.listeners import check_free, explain_bind_error

_ABOUT = """\
Install Holdfast on this machine, as root: a user `holdfast`, an environment below /opt/holdfast, /etc/holdfast/holdfast.toml
(if there is none), /var/lib/holdfast, a systemd unit, /usr/local/bin/holdfast and completion for bash, zsh and fish. With
systemd the node is started.

Run again it upgrades: what is there and right stays, the configuration always. The environment before is kept for --rollback.
Nothing is downloaded: what is installed is what this command runs from."""
_AFTER = """\
Examples:
  sudo ./holdfast install --dry-run      what would be done
  sudo ./holdfast install                do it
  ./holdfast install --root /tmp/image   below that directory: for a package or a container image
  sudo holdfast install --rollback       back to the environment before the last upgrade
  sudo holdfast uninstall                remove it; data and configuration stay"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """find: what there is to do, "" for nothing; do: does it. Both may raise `ConfigError`, `OSError`."""

    find: Callable[[], str]
    do: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it is installed: `root` is / or the directory of a staged install."""

    root: Path

    @property
    def is_staged(self) -> bool:
        return self.root != Path("/")

    @property
    def has_systemd(self) -> bool:
        """Whether systemd runs here, and may be told."""
        return not self.is_staged and Path("/run/systemd/system").is_dir()

    def at(self, path: Path) -> Path:
        """`path` below the root."""
        return self.root / path.relative_to("/")


def install(argv: list[str]) -> int:
    """Run `holdfast install`. Raises `ConfigError`, `Conflict`."""
    options = make_parser().parse_args(argv)
    place = Place(root=options.root.absolute() if options.root else Path("/"))
    need_root(place, is_dry=options.dry_run)
    environments = Environments(place.at(unit.PREFIX))
    if options.rollback:
        steps = [Step(find=lambda: "go back to the environment before the last upgrade", do=environments.roll_back)]
    else:
        steps = list(plan_install(place, environments))
    changed = run_steps(steps, is_dry=options.dry_run)
    if place.has_systemd and not options.no_start:
        changed += run_steps(service_steps(is_new=bool(changed)), is_dry=options.dry_run)
    if options.dry_run:
        print("nothing was done: --dry-run" if changed else "everything is as it should be")
    elif not changed:
        print("everything was as it should be")
    else:
        print(next_words(place, is_started=place.has_systemd and not options.no_start))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Of the command."""
    parser = argparse.ArgumentParser(prog="holdfast install", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, metavar="DIR",
                        help="install below DIR, as for a package; no user is made, nothing is started")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--no-start", action="store_true", help="do not start or restart the service")
    parser.add_argument("--rollback", action="store_true", help="exchange the environment with the one before it")
    return parser


def need_root(place: Place, *, is_dry: bool) -> None:
    """Raises `ConfigError` for a user who may not."""
    if os.geteuid() and not place.is_staged and not is_dry:
        raise ConfigError(where="holdfast", reason="this needs root: run it with sudo; --dry-run shows what it would do, "
                          "--root DIR does it below a directory of yours")


def run_steps(steps: list[Step], *, is_dry: bool) -> int:
    """Run what has something to do and say it; returns how many. Raises `ConfigError` that names the step."""
    count = 0
    for step in steps:
        what = step.find()
        if not what:
            continue
        count += 1
        print(f"{'would ' if is_dry else ''}{what}", flush=True)
        if is_dry:
            continue
        try:
            step.do()
        except OSError as error:
            raise ConfigError(where=str(error.filename or what), reason=f"{error.strerror or error}; what was done before stays, "
                              "and the command can be run again") from error
    return count


def plan_install(place: Place, environments: Environments) -> Iterator[Step]:
    """All steps, in order. Raises `ConfigError`."""
    parts = find_parts()
    config = place.at(unit.CONFIG)
    loaded = _load(config) if config.exists() else None
    if loaded is not None:
        check_ports(place, loaded)
    yield _user_step(place)
    stamp = environments.stamp_of("current")
    before = f" in place of {stamp['version']}" if stamp else ""
    yield Step(find=lambda: "" if environments.is_current(parts) else f"make the environment {parts.name}{before}: "
               f"{environments.prefix}/envs/{parts.name}", do=lambda: environments.switch(environments.make(parts)))
    yield _directory_step(place, unit.CONFIG.parent, 0o750, group=unit.USER)
    yield _file_step(place, unit.CONFIG, make_config, 0o640, group=unit.USER, is_kept=True)
    yield _state_step(place)
    writable = find_writable(loaded.value) if loaded is not None else []
    yield _file_step(place, unit.UNIT, lambda: unit.make_unit(writable=writable), 0o644)
    if place.is_staged:
        yield _file_step(place, unit.SYSUSERS, lambda: unit.SYSUSERS_TEXT, 0o644)
        yield _file_step(place, unit.TMPFILES, lambda: unit.TMPFILES_TEXT, 0o644)
    yield _link_step(place, unit.COMMAND, unit.PREFIX / "current" / "bin" / "holdfast")
    for shell, path in PLACES.items():
        yield _file_step(place, path, lambda shell=shell: make_completion(shell), 0o644)      # type: ignore[misc]


def service_steps(*, is_new: bool) -> list[Step]:
    """Start it, or restart it if something changed."""
    is_active = systemctl("is-active", "--quiet", "holdfast") == 0
    verb = "restart" if is_active else "start"
    return [Step(find=lambda: "tell systemd of the unit" if is_new else "", do=lambda: need_systemctl("daemon-reload")),
            Step(find=lambda: "" if systemctl("is-enabled", "--quiet", "holdfast") == 0 else "start the node at every boot",
                 do=lambda: need_systemctl("enable", "holdfast")),
            Step(find=lambda: f"{verb} the node" if is_new or not is_active else "", do=lambda: need_systemctl(verb, "holdfast"))]


def next_words(place: Place, *, is_started: bool) -> str:
    """What to do now."""
    if is_started:
        return "done. The node runs: `systemctl status holdfast`, `holdfast status`; its log: `journalctl -u holdfast`"
    if place.is_staged:
        return (f"done, below {place.root}. On the system that gets it: systemd-sysusers && systemd-tmpfiles --create, then "
                "systemctl enable --now holdfast")
    return (f"done. systemd does not run here, so the node was not started. Start it as its user:\n"
            f"  setpriv --reuid {unit.USER} --regid {unit.USER} --init-groups holdfast up --config {unit.CONFIG} --detach\n"
            f"and stop it with: holdfast down --config {unit.CONFIG}")


# what the steps are made of

def make_config() -> str:
    """The sample with the state directory of an installed node."""
    lines = sample_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("# data = "))
    lines[at] = lines[at].removeprefix("# ")
    assert tomllib.loads("".join(lines)) == {"cluster": {}, "node": {"data": str(unit.STATE)}} | {
        name: {} for name in tomllib.loads("".join(lines)) if name not in ("cluster", "node")}
    return "".join(lines)


def find_writable(config: HoldfastConfig) -> list[Path]:
    """What the node writes outside of its usual state directory: elsewhere-linked devices, another directory, files of logs."""
    state = config.state_dir()
    found = [] if state == unit.STATE else [state]
    for device in sorted(state.glob("devices/*")):
        if device.is_symlink():
            found.append(device.resolve())
    found += [Path(file).parent for file in (config.log.file, config.audit.file) if file is not None]
    return [path for path in found if path.is_dir() and not path.is_relative_to("/dev")]


def check_ports(place: Place, loaded: Loaded[HoldfastConfig]) -> None:
    """A port that somebody else has is told of before anything is done; a node of ours may have it. Raises `ConfigError`."""
    if place.is_staged or systemctl("is-active", "--quiet", "holdfast") == 0 or find_running(loaded.value.state_dir()) is not None:
        return
    config = loaded.value
    for where, address in (("node.listen", config.listen), ("node.admin_listen", parse_address(config.node.admin_listen))):
        try:
            check_free(address)
        except OSError as error:
            raise ConfigError(where=f"{unit.CONFIG}: {where}", reason=explain_bind_error(address, error)) from error


def _load(path: Path) -> Loaded[HoldfastConfig]:
    return load_config(path, {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")})


def _user_step(place: Place) -> Step:
    state = place.at(unit.STATE)

    def find() -> str:
        return "" if place.is_staged or find_user(unit.USER) is not None else f"make the system user {unit.USER}"

    def do() -> None:
        command = ["useradd", "--system", "--user-group", "--home-dir", str(unit.STATE), "--no-create-home", "--shell",
                   shutil.which("nologin") or "/usr/sbin/nologin", unit.USER]
        owner = state.stat().st_uid if state.exists() else 0
        if owner and _is_free(owner):            # data of an earlier install shall belong to the new user
            command[1:1] = ["--uid", str(owner)]
        need(command, "make the user yourself, then run this again")

    return Step(find=find, do=do)


def _is_free(user_id: int) -> bool:
    try:
        pwd.getpwuid(user_id)
    except KeyError:
        return True
    return False


def _directory_step(place: Place, path: Path, mode: int, *, owner: str = "root", group: str = "root") -> Step:
    target = place.at(path)

    def find() -> str:
        if not target.is_dir():
            return f"make {target}"
        return f"set owner and mode of {target}" if _differs(place, target, mode, owner, group) else ""

    def do() -> None:
        target.mkdir(mode=mode, parents=True, exist_ok=True)
        _own(place, target, mode, owner, group)

    return Step(find=find, do=do)


def _state_step(place: Place) -> Step:
    """Data that an earlier user of this name has left, and whose number somebody else has now, is given to the new one."""
    target = place.at(unit.STATE)
    plain = _directory_step(place, unit.STATE, 0o700, owner=unit.USER, group=unit.USER)

    def is_foreign() -> bool:
        ids = _ids(place, unit.USER, unit.USER)
        return ids is not None and target.is_dir() and any(target.iterdir()) and target.stat().st_uid not in (0, ids[0])

    def do() -> None:
        ids = _ids(place, unit.USER, unit.USER)
        if ids is not None and is_foreign():
            before = target.stat().st_uid
            for root in (target, *(device.resolve() for device in target.glob("devices/*") if device.is_symlink())):
                for directory, names, files in os.walk(root):
                    for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
                        if os.lstat(path).st_uid == before:
                            os.lchown(path, *ids)
        plain.do()

    return Step(find=lambda: f"give {target} with all that is in it to {unit.USER}" if is_foreign() else plain.find(), do=do)


def _file_step(place: Place, path: Path, make: Callable[[], str], mode: int, *, group: str = "root", is_kept: bool = False) -> Step:
    """is_kept: a file that is there belongs to the operator."""
    target = place.at(path)

    def is_right() -> bool:
        return is_kept or target.read_text() == make()

    def find() -> str:
        if not target.exists():
            return f"write {target}"
        if not is_right():
            return f"replace {target}"
        return f"set owner and mode of {target}" if _differs(place, target, mode, "root", group) else ""

    def do() -> None:
        if not target.exists() or not is_right():
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "w") as file:
                file.write(make())
            temporary.rename(target)
        _own(place, target, mode, "root", group)

    return Step(find=find, do=do)


def _link_step(place: Place, path: Path, points_to: Path) -> Step:
    link = place.at(path)

    def find() -> str:
        if link.is_symlink():
            return "" if os.readlink(link) == str(points_to) else f"let {link} point to {points_to}"
        if link.exists():
            raise Conflict(what=str(link), reason=f"{link} is there and not of this installer: move it away, then run this again")
        return f"link {link} to {points_to}"

    def do() -> None:
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.symlink_to(points_to)
        temporary.rename(link)

    return Step(find=find, do=do)


def _differs(place: Place, path: Path, mode: int, owner: str, group: str) -> bool:
    found = path.stat()
    if found.st_mode & 0o7777 != mode:
        return True
    ids = _ids(place, owner, group)
    return ids is not None and (found.st_uid, found.st_gid) != ids


def _own(place: Place, path: Path, mode: int, owner: str, group: str) -> None:
    ids = _ids(place, owner, group)
    if ids is not None:
        os.chown(path, *ids)
    path.chmod(mode)


def _ids(place: Place, owner: str, group: str) -> tuple[int, int] | None:
    """None where owners are set later: in a staged install, by systemd-tmpfiles."""
    if place.is_staged:
        return None
    user_id, group_id = find_user(owner), _group_id(group)
    return None if user_id is None or group_id is None else (user_id, group_id)


def find_user(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def systemctl(*arguments: str) -> int:
    """Exit code; 1 where there is no systemctl."""
    if shutil.which("systemctl") is None:
        return 1
    return subprocess.run(("systemctl", *arguments), check=False, capture_output=True).returncode


def need_systemctl(*arguments: str) -> None:
    need(["systemctl", *arguments], "look at `journalctl -u holdfast`")


def need(command: list[str], advice: str) -> None:
    """Raises `ConfigError`."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigError(where=command[0], reason=f"is not installed here; {advice}") from error
    if done.returncode:
        raise ConfigError(where=" ".join(command), reason=f"{(done.stderr or done.stdout).strip()}; {advice}")

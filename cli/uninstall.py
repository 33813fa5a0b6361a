"""`holdfast uninstall`: stops the node and removes what `holdfast install` made; data and configuration only with --purge."""
from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cli import unit
from cli.completion import PLACES
from cli.environment import Environments
from cli.install import Place, Step, find_user, need, need_root, need_systemctl, run_steps, systemctl
from common.errors import ConfigError, Conflict
from node.config import load_config
from node.files import find_running
from node.state import CLUSTER_FILE

_ABOUT = """\
Stop the node and remove what `holdfast install` made: unit, command, completion, environments, user. The state directory with
all data and /etc/holdfast stay, and a later install takes them up again."""
_AFTER = """\
With --purge they are removed as well: all objects, accounts, keys. What will be lost is named first, and --yes or an answer is
needed. Disks that are mounted below the state directory, and links to places elsewhere, are never emptied: unmount and wipe
them yourself."""


def uninstall(argv: list[str]) -> int:
    """Run `holdfast uninstall`. Returns 1 if the answer was no. Raises `ConfigError`, `Conflict`."""
    options = make_parser().parse_args(argv)
    place = Place(root=options.root.absolute() if options.root else Path("/"))
    need_root(place, is_dry=options.dry_run)
    state = find_state(place)
    check_stopped(place, state)
    if options.purge:
        check_purge(state)
        if not options.dry_run and not (options.yes or is_agreed(describe_loss(place, state))):
            print("nothing was done")
            return 1
    steps = list(plan_uninstall(place, state if options.purge else None))
    count = run_steps(steps, is_dry=options.dry_run)
    if options.dry_run and options.purge:
        print(describe_loss(place, state))
    if not count:
        print("there is nothing to remove")
    elif options.dry_run:
        print("nothing was done: --dry-run")
    elif not options.purge:
        left = [str(path) for path in (state, place.at(unit.CONFIG)) if path.exists()]
        print(f"done{'; still there: ' + ', '.join(left) if left else ''}")
    else:
        print("done")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Of the command."""
    parser = argparse.ArgumentParser(prog="holdfast uninstall", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, metavar="DIR", help="what was installed below DIR")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--purge", action="store_true", help="remove all data and the configuration as well")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def find_state(place: Place) -> Path:
    """The state directory of the installed node, wherever its configuration puts it."""
    config = place.at(unit.CONFIG)
    if not config.exists():
        return place.at(unit.STATE)
    return place.at(load_config(config, {}).value.state_dir({}))


def check_stopped(place: Place, state: Path) -> None:
    """A node that systemd does not know of has to be stopped by who started it. Raises `Conflict`."""
    pid = find_running(state)
    if pid is not None and not (place.has_systemd and systemctl("is-active", "--quiet", "holdfast") == 0):
        raise Conflict(what=str(state), pid=pid, reason=f"a node runs in {state} (process {pid}): stop it first, "
                       f"`holdfast down --data {state}`")


def check_purge(state: Path) -> None:
    """Nothing is removed that is no state directory, or that is a disk. Raises `ConfigError`."""
    if not state.exists():
        return
    if any(state.iterdir()) and not (state / CLUSTER_FILE).exists():
        raise ConfigError(where=str(state), reason=f"there is no {CLUSTER_FILE} in it, so it may be something else: look, and "
                          "remove it yourself")
    mounted = [str(path) for path in (state, *state.glob("devices/*")) if path.is_mount()]
    if mounted:
        raise ConfigError(where=", ".join(mounted), reason="disks are mounted there and are never emptied by this command: unmount "
                          "them, wipe them yourself if you want to, then run this again; without --purge all data stays")


def describe_loss(place: Place, state: Path) -> str:
    """What --purge takes."""
    devices = sorted(path.name for path in state.glob("devices/*"))
    size = sum(_size_of(path) for path in state.rglob("*"))
    try:
        cluster = json.loads((state / CLUSTER_FILE).read_text()).get("cluster_id", "unknown")
    except (OSError, ValueError):
        cluster = "none"
    links = [f"{path} -> {os.readlink(path)}" for path in state.glob("devices/*") if path.is_symlink()]
    names = ', '.join(devices) or 'none'
    return (f"This removes for ever: cluster {cluster}, {len(devices)} devices ({names}), {size / 1e6:.1f} MB "
            f"in {state}: all objects, accounts, keys, usage and audit logs; and {place.at(unit.CONFIG).parent}."
            + (f"\nNot removed, because they are elsewhere: {'; '.join(links)}" if links else ""))


def is_agreed(question: str, ask: Callable[[str], str] = input) -> bool:
    """Whether somebody at a terminal says yes; nobody there is no."""
    print(question)
    if not sys.stdin.isatty():
        print("holdfast: nobody to ask; say --yes if you mean it", file=sys.stderr)
        return False
    return ask('Type "yes" to remove it: ').strip() == "yes"


def plan_uninstall(place: Place, purged: Path | None) -> Iterator[Step]:
    """All steps, in order. purged: the state directory, if it goes as well."""
    if place.has_systemd:
        yield Step(find=lambda: "stop the node" if systemctl("is-active", "--quiet", "holdfast") == 0 else "",
                   do=lambda: need_systemctl("stop", "holdfast"))
        yield Step(find=lambda: "start it at no boot any more" if systemctl("is-enabled", "--quiet", "holdfast") == 0 else "",
                   do=lambda: need_systemctl("disable", "holdfast"))
    for path in (unit.UNIT, unit.SYSUSERS, unit.TMPFILES, *PLACES.values()):
        yield _remove_step(place.at(path))
    if place.has_systemd:
        yield Step(find=lambda: "tell systemd that the unit is gone" if systemctl("cat", "holdfast") == 0 else "",
                   do=lambda: need_systemctl("daemon-reload"))
    yield _command_step(place)
    environments = Environments(place.at(unit.PREFIX))
    yield Step(find=lambda: f"remove {environments.prefix}" if environments.prefix.exists() else "", do=environments.remove)
    if purged is not None:
        for directory in (purged, place.at(unit.CONFIG.parent)):
            yield Step(find=lambda directory=directory: f"remove {directory} with all that is in it"     # type: ignore[misc]
                       if directory.exists() else "", do=lambda directory=directory: shutil.rmtree(directory))   # type: ignore[misc]
    if not place.is_staged:
        yield Step(find=lambda: f"remove the user {unit.USER}" if find_user(unit.USER) is not None else "",
                   do=lambda: need(["userdel", unit.USER], "remove it yourself"))


def _remove_step(path: Path) -> Step:
    return Step(find=lambda: f"remove {path}" if path.exists() else "", do=path.unlink)


def _command_step(place: Place) -> Step:
    """The link, if it is ours."""
    link = place.at(unit.COMMAND)
    is_ours = link.is_symlink() and os.readlink(link).startswith(f"{unit.PREFIX}/")
    return Step(find=lambda: f"remove {link}" if is_ours else "", do=link.unlink)


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0

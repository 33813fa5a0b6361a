"""`holdfast backup create|verify|restore`: the control plane of a node as one archive, and back."""
from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli.up import add_where
from common.clock import SystemClock
from common.errors import Corruption
from node.backup import create_backup, verify_backup
from node.backup_restore import Restore, restore_backup
from node.config import load_config

_ABOUT = """\
Databases, token and credential keys, secrets, rings, cluster.json, policies and the configuration of a node, as they were at one
moment. Not in it: the objects on the devices, and TLS files that lie elsewhere."""
_AFTER = """\
Examples:
  holdfast backup create /srv/backup/monday.tar          beside a running node; verified when it was written
  holdfast backup verify /srv/backup/monday.tar
  holdfast backup restore /srv/backup/monday.tar --data /var/lib/holdfast --dry-run

The archive holds every key of the node: it is 0600, keep it so. create overwrites nothing. restore wants a directory without a
node, or --replace, which sets aside what is there (DIR/holdfast.replaced-...). Who restores an older state also brings back what
was revoked since: tokens that were revoked after the backup are good again until they expire.

Exit code: 0 done, 1 refused or damaged (standard error says what)."""


def main(argv: list[str]) -> int:
    """Run one of the three. Raises `StorageError`."""
    options = _parse(argv)
    say = _be_silent if options.json else _say
    if options.verb == "verify":
        return _verify(Path(options.archive), is_json=options.json)
    loaded = load_config(options.config, os.environ, overrides={"node.data": options.data})
    root = loaded.value.state_dir()
    if options.verb == "create":
        result = create_backup(loaded, root, Path(options.archive).absolute(), clock=SystemClock(), say=say)
        text = (f"{result['archive']}: {result['files']} files, {result['bytes']} bytes, in {result['seconds']:.1f} s, verified\n"
                + "".join(f"note: {note}\n" for note in result["notes"]))
    else:
        asked = Restore(archive=Path(options.archive).absolute(), root=root, config=loaded.value, replaces=options.replace,
                        is_dry_run=options.dry_run)
        result = restore_backup(asked, clock=SystemClock(), say=say)
        text = _told_restore(result)
    print(json.dumps(result, indent=2) if options.json else text, end="\n" if options.json else "")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="holdfast backup", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="write an archive", description=_ABOUT)
    create.add_argument("archive", metavar="FILE", help="NAME.tar, or a name without a suffix for a directory")
    verify = verbs.add_parser("verify", help="is an archive whole?", description="Every checksum, and every SQLite database.")
    verify.add_argument("archive", metavar="FILE", help="what create has written")
    restore = verbs.add_parser("restore", help="make a node's control plane of an archive", description=_ABOUT)
    restore.add_argument("archive", metavar="FILE", help="what create has written")
    restore.add_argument("--replace", action="store_true", help="set aside a node of the same cluster that is there")
    restore.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, do nothing")
    for verb in (create, restore):
        add_where(verb)
    for verb in (create, verify, restore):
        verb.add_argument("--json", action="store_true", help="the result, for programs; no progress")
    return parser.parse_args(argv)


def _verify(path: Path, *, is_json: bool) -> int:
    try:
        body = verify_backup(path).body
    except Corruption as error:
        if not is_json:
            raise
        problems = error.fields.get("problems") or [error.fields["reason"]]
        print(json.dumps({"archive": str(path), "is_whole": False, "problems": problems}, indent=2))
        return 1
    when = datetime.fromtimestamp(body["created_us"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    facts: dict[str, Any] = {"archive": str(path), "is_whole": True, "created_us": body["created_us"], "cluster": body["cluster"],
                             "version": body["version"], "files": len(body["files"]), "problems": []}
    print(json.dumps(facts, indent=2) if is_json else
          f"{path}: whole; of {when} UTC, cluster {body['cluster']}, version {body['version']}, {len(body['files'])} files")
    return 0


def _told_restore(result: dict[str, Any]) -> str:
    if result["is_dry_run"]:
        return f"nothing was done; {result['files']} files and {len(result['databases'])} database(s) would be restored\n"
    config = f"the configuration of the backup is {result['config']}: nothing reads it there\n" if result["config"] else ""
    return f"restored {result['state']}, cluster {result['cluster']}\n{config}start it: holdfast up --data {result['state']}\n"


def _say(line: str) -> None:
    print(f"holdfast: {line}", file=sys.stderr)


def _be_silent(_: str) -> None:
    pass

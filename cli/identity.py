"""`holdfast identity`: what the operator of a node does to its identity service; users and projects are for `openstack`."""
from __future__ import annotations

import argparse

from cli.up import add_where, find_root
from common.admin import AdminClient

_ABOUT = "Work on the identity service of a running node. Users, projects and roles: `openstack --os-cloud holdfast-admin`."
_ROTATE = """\
Make the staged token key the one that seals new tokens, and stage another. Tokens that clients have stay good: their key goes
on opening until the next but one rotation. Two rotations end all tokens that were made before the first; after the key
directory may have leaked rotate three times, because the staged key leaked too; in daily use rotate no more often than
tokens live (token_life_s of [identity])."""


def main(argv: list[str]) -> int:
    """Run `holdfast identity ...`. Raises `NotFound` (no node, or none with identity), `TransportLost`."""
    options = _parse(argv)
    found = AdminClient.from_state(find_root(options)).post("/identity/rotate-keys")
    print(f"tokens are sealed with key {found['primary']} from now on")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="holdfast identity", description=_ABOUT)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_where(verbs.add_parser("rotate-keys", help="seal tokens with a new key", description=_ROTATE,
                               formatter_class=argparse.RawDescriptionHelpFormatter))
    return parser.parse_args(argv)

"""Mistakes planted in a node that is started with this directory first in PYTHONPATH and HOLDFAST_PLANT in its environment.

Python imports this file at the start of every process. Each plant replaces one function by a version with one mistake, and fails
loudly when there is no such function any more: then the plant has to follow the code.
"""
from __future__ import annotations

import importlib
import os
import traceback


def read_quorum_of_one() -> None:
    """A read believes the first replica that answers."""
    module = importlib.import_module("proxy.coordinator")

    async def read(self, *, read_body=False, replies=None):
        first = (replies if replies is not None else await self.look(read_body=read_body))[0]
        return module.Outcome(module.Verdict.READ, first.version, first.ballot, [first])
    replace(module.Coordinator, "read", read)


def no_write_back() -> None:
    """A read takes the newest state that a quorum shows, and does not see to it that the next reader finds it as well."""
    module = importlib.import_module("proxy.coordinator")

    async def read(self, *, read_body=False, replies=None):
        if replies is None:
            replies = await self.look(read_body=read_body)
        newest = max(replies, key=lambda reply: (reply.ballot, reply.body is not None))
        return module.Outcome(module.Verdict.READ, newest.version, newest.ballot, replies)
    replace(module.Coordinator, "read", read)


def forgotten_promises() -> None:
    """After a restart a replica takes what it has promised to refuse: it does not heed the journaled ceiling."""
    module = importlib.import_module("object.register")
    init = module.Replica.__init__

    def forget(self, log, *, floor, ceiling, **options):
        init(self, log, floor=floor, ceiling=ceiling, **options)
        assert self._base >= ceiling
        self._base = floor
    replace(module.Replica, "__init__", forget)


def replace(owner: type, name: str, wrong: object) -> None:
    """Only what is there can be replaced."""
    assert name in vars(owner), f"{owner.__name__} has no {name} of its own any more"
    setattr(owner, name, wrong)


PLANTS = {"read-quorum-of-one": read_quorum_of_one, "no-write-back": no_write_back, "forgotten-promises": forgotten_promises}

if os.environ.get("HOLDFAST_PLANT"):
    try:
        PLANTS[os.environ["HOLDFAST_PLANT"]]()
    except BaseException:                # Python would print it and go on without the plant
        traceback.print_exc()
        os._exit(70)

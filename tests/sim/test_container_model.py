"""One container against a dictionary: any order of requests, restarts and crashes, over the real store in one loop.

The rules act on a cluster of two workers and a gateway without devices (tests/fault/cluster/harness.py). A crash takes the
directories as they are in the middle of the work, and goes on from that copy: what was acknowledged has to be in it.
"""
from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import Conflict, NotFound
from common.pool import Pool
from proxy.model import MetaChange, Page, Subdir
from tests.fault.cluster.harness import Harness, delete, get, meta_of, post, put

NAMES = st.sampled_from(["a", "a/b", "a/c", "a/c/d", "b", "b//", "bb", "ba/x", "ä", "\U0001f600", "\uffff", "z/y/x", "~"])
TEXTS = st.sampled_from(["", "a", "a/", "a/c", "b", "b/", "ä", "\ue000", "z", "\U0001f600", "~~"])
BODIES = st.sampled_from([b"", b"x", b"y" * 300, b"z" * 70_000])
METAS = st.dictionaries(st.sampled_from(["color", "size"]), st.sampled_from(["red", "42", ""]), max_size=2)
PAGES = st.builds(Page, limit=st.integers(1, 6), marker=TEXTS, end_marker=TEXTS, prefix=TEXTS,
                  delimiter=st.sampled_from(["", "", "/", "b", "//"]), reverse=st.booleans())


def expected_page(names, page):
    """What a page shows, by the definition: names, or rolled-up names with the delimiter at their end."""
    out = []
    for name in sorted(names, key=str.encode, reverse=page.reverse):
        low, high = (page.end_marker, page.marker) if page.reverse else (page.marker, page.end_marker)
        if not name.startswith(page.prefix):
            continue
        shown = name
        at = name.find(page.delimiter, len(page.prefix)) if page.delimiter else -1
        if at >= 0:
            shown = name[:at + len(page.delimiter)]
        if (low and name.encode() <= low.encode()) or (high and name.encode() >= high.encode()):
            continue
        if at >= 0 and page.marker and shown == page.marker:
            continue
        if shown not in out:
            out.append(shown)
    return out[:page.limit]


def freeze(cluster):
    """Stop every thread that writes, between two of its jobs; a function that lets them go on."""
    release = threading.Event()
    stopped = []

    def stop(mark):
        mark.set()
        release.wait()

    for storage in cluster.storages:
        pools = [store._pool for store in storage._rows.values()]
        for owner in storage._owners.values():
            pools += [owner._journal_pool, owner._body_pool, owner._body_pool]
        for pool in pools:
            stopped.append(threading.Event())
            if isinstance(pool, Pool):
                pool.submit(partial(stop, stopped[-1]), lambda *_: None)
            else:
                pool.submit(stop, stopped[-1])
    for mark in stopped:
        mark.wait()
    return release.set


class ContainerMachine(RuleBasedStateMachine):
    """`objects`: name -> (body, metadata); `meta`: of the container, None while there is none."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.base = Path(tempfile.mkdtemp(prefix="hf-model-"))
        self.life = 0
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.meta: dict[str, str] | None = None
        self.turn = 0

    def run(self, job):
        return self.runner.run(job)

    @property
    def store(self):
        """Every request goes through another worker."""
        self.turn += 1
        return self.cluster.stores[self.turn % len(self.cluster.stores)]

    @initialize(owners=st.sampled_from([(0, 1, 0), (0, 0, 0)]))
    def begin(self, owners):
        self.owners = owners
        self.run(self._open())
        self.run(self.store.create_account("a", MetaChange()))
        self.create(meta={})

    async def _open(self):
        self.cluster = Harness(self.base / str(self.life), owners=self.owners)
        await self.cluster.start()

    # --- the container -------------------------------------------------------------------------------------------

    @rule(meta=METAS)
    def create(self, meta):
        was_new = self.run(self.store.put_container("a", "c", MetaChange(meta=meta), policy=None))
        assert was_new is (self.meta is None)
        self.meta = {**(self.meta or {}), **meta}
        self.meta = {key: value for key, value in self.meta.items() if value}

    @rule(meta=METAS)
    def post_container(self, meta):
        if self.meta is None:
            with pytest.raises(NotFound):
                self.run(self.store.post_container("a", "c", MetaChange(meta=meta)))
            return
        self.run(self.store.post_container("a", "c", MetaChange(meta=meta)))
        self.meta = {key: value for key, value in {**self.meta, **meta}.items() if value}

    @rule()
    def delete_container(self):
        if self.meta is None or self.objects:
            with pytest.raises(NotFound if self.meta is None else Conflict):
                self.run(self.store.delete_container("a", "c"))
            return
        self.run(self.store.delete_container("a", "c"))
        self.meta = None

    @rule()
    def empty_and_delete_container(self):
        for name in list(self.objects):
            self.delete(name)
        self.delete_container()

    # --- objects -------------------------------------------------------------------------------------------------

    @rule(name=NAMES, body=BODIES, meta=METAS)
    def put(self, name, body, meta):
        if self.meta is None:
            with pytest.raises(NotFound):
                self.run(put(self.store, name, body, meta=meta))
            return
        info = self.run(put(self.store, name, body, meta=meta))
        assert info.is_listed
        self.objects[name] = (body, meta)

    @rule(names=st.lists(NAMES, max_size=8, unique=True), body=BODIES)
    @precondition(lambda self: self.meta is not None)
    def put_many_at_once(self, names, body):
        async def all_of_them():
            await asyncio.gather(*(put(self.store, name, body) for name in names))
        self.run(all_of_them())
        self.objects.update({name: (body, {}) for name in names})

    @rule(name=NAMES, meta=METAS)
    def post(self, name, meta):
        if name not in self.objects:
            with pytest.raises(NotFound):
                self.run(post(self.store, name, meta))
            return
        self.run(post(self.store, name, meta))
        self.objects[name] = (self.objects[name][0], meta)

    @rule(name=NAMES)
    def delete(self, name):
        if name not in self.objects:
            with pytest.raises(NotFound):
                self.run(delete(self.store, name))
            return
        self.run(delete(self.store, name))
        del self.objects[name]

    @rule(name=NAMES)
    def get(self, name):
        held = self.objects.get(name)
        assert self.run(get(self.store, name)) == (held[0] if held else None)
        if held:
            assert self.run(meta_of(self.store, name)) == held[1]

    @rule(page=PAGES)
    @precondition(lambda self: self.meta is not None)
    def list(self, page):
        _, entries = self.run(self.store.list_container("a", "c", page))
        assert [entry.name for entry in entries] == expected_page(self.objects, page), page
        for entry in entries:
            if not isinstance(entry, Subdir):
                assert entry.size_bytes == len(self.objects[entry.name][0])

    # --- the cluster ---------------------------------------------------------------------------------------------

    @rule()
    def restart(self):
        self.run(self.cluster.restart())

    @rule(name=NAMES, body=BODIES)
    def crash(self, name, body):
        """With a write under way, which may or may not have happened afterwards."""
        before = self.objects.get(name)
        self.run(self._crash(name, body))
        if self.meta is not None:
            found = self.run(get(self.store, name))
            assert found in (body, before[0] if before else None)
            if found is None:
                self.objects.pop(name, None)
            elif before is None or found != before[0]:
                self.objects[name] = (found, {})
            else:
                self.objects[name] = (found, self.run(meta_of(self.store, name)))
            self.run(self._settle(name))

    async def _crash(self, name, body):
        writing = asyncio.create_task(put(self.store, name, body)) if self.meta is not None else None
        for _ in range(self.turn % 7):
            await asyncio.sleep(0)
        self.life += 1
        copy = self.base / str(self.life)
        go_on = freeze(self.cluster)
        for index in range(3):
            shutil.copytree(self.cluster.device(index), copy / "devices" / f"d{index + 1}")
        go_on()
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        await self.cluster.stop()
        shutil.rmtree(self.cluster.root)
        await self._open()

    async def _settle(self, name):
        """A write that was under way is listed when the journal has delivered it; a write of ours settles it at once."""
        if name in self.objects:
            body, meta = self.objects[name]
            await put(self.store, name, body, meta=meta)
        else:
            await put(self.store, name, b"")
            await delete(self.store, name)

    # --- always --------------------------------------------------------------------------------------------------

    @invariant()
    def agrees(self):
        if not hasattr(self, "cluster"):
            return
        if self.meta is None:
            with pytest.raises(NotFound):
                self.run(self.store.list_container("a", "c", Page(limit=100)))
            return
        info, entries = self.run(self.store.list_container("a", "c", Page(limit=100)))
        assert [entry.name for entry in entries] == sorted(self.objects, key=str.encode)
        assert (info.object_count, info.bytes_used) == (len(self.objects), sum(len(b) for b, _ in self.objects.values()))
        assert self.run(self.store.container("a", "c", fresh=True)).meta == self.meta

    def teardown(self):
        if hasattr(self, "cluster"):
            self.run(self.cluster.stop())
        self.runner.close()
        shutil.rmtree(self.base, ignore_errors=True)


TestContainerModel = ContainerMachine.TestCase
TestContainerModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None,
                                       suppress_health_check=list(HealthCheck))


@pytest.mark.all_only
class TestContainerModelLong(ContainerMachine.TestCase):
    settings = settings(max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))

"""Messages lost and late, devices silent for a while: every name stays one register, for readers and for listings."""
from __future__ import annotations

import asyncio
import random

import pytest

from common.errors import NotFound, StorageError
from object import updater as updater_module
from tests.fault.cluster.harness import delete, get, listing, put, running, until
from tests.fault.history.register import ABSENT, NEVER_S, Act, Op, State, is_linearizable


def write(value, begin_s, end_s):
    """value: None for a deletion. end_s: NEVER_S if nobody knows."""
    return Op(Act.DELETE, ABSENT, begin_s, end_s) if value is None else Op(Act.PUT, State(value), begin_s, end_s)


def read(value, begin_s, end_s):
    """value: None if there was nothing."""
    return Op(Act.SEE, ABSENT if value is None else State(value), begin_s, end_s)


class Recorder:
    """Clients of one name; notes what each saw and when. Every value is written once."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.objects = []
        self.number = 0

    async def note(self, value, job, *, is_read=False):
        begin_s = self.loop.time()
        try:
            found = await job
        except NotFound:
            found, is_read = None, True  # a DELETE that found nothing is a read of nothing
        except StorageError:
            if not is_read:
                self.objects.append(write(value, begin_s, NEVER_S))
            return
        end_s = self.loop.time()
        self.objects.append(read(found, begin_s, end_s) if is_read else write(value, begin_s, end_s))

    async def write(self, store, name):
        self.number += 1
        body = b"%d" % self.number
        await self.note(body, put(store, name, body))

    async def remove(self, store, name):
        await self.note(None, delete(store, name))

    async def read(self, store, name):
        await self.note(None, get(store, name), is_read=True)


async def hurt(cluster, chance, workers, is_over):
    """Now this device, now that one hears nothing of a gateway, or hears it late."""
    while not is_over.is_set():
        worker, device = chance.choice(workers), chance.randrange(3)
        delay_s = chance.choice([None, None, 0.005, 0.05])
        mend = cluster.harm(worker, device, delay_s=delay_s)
        await asyncio.sleep(chance.random() * 0.05)
        mend()


def spoil(cluster, chance, workers):
    """From now on each message is lost with a chance of its own, whatever it is."""
    for worker in workers:
        cluster.harm_if(worker, lambda op, fields: chance.random() < 0.02)


async def check_objects(tmp_path, seed, *, steps, is_lossy):
    chance = random.Random(seed)
    async with running(tmp_path, gateways=3, request_timeout_s=1.0) as cluster:
        stores = [cluster.store(3), cluster.store(4), cluster.store(5)]
        recorder = Recorder()
        is_over = asyncio.Event()
        if is_lossy:
            spoil(cluster, chance, (3, 4, 5))
        trouble = asyncio.create_task(hurt(cluster, chance, (3, 4, 5), is_over))

        async def client(store):
            for _ in range(steps):
                await chance.choices([recorder.write, recorder.read, recorder.remove], [4, 5, 1])[0](store, "o")
        await asyncio.gather(*(client(store) for store in stores))
        is_over.set()
        await trouble
        for rules in cluster.rules:
            rules.clear()
        for store in cluster.stores:
            await recorder.read(store, "o")
        assert is_linearizable(recorder.objects), recorder.objects
        found = await get(stores[0], "o")

        async def agrees():
            return all([await listing(store) == (["o"] if found is not None else []) for store in cluster.stores])
        await until(agrees, "the listing says what the object says")


@pytest.mark.parametrize("seed", range(4))
async def test_an_object_is_linearizable_while_devices_come_and_go(tmp_path, monkeypatch, seed):
    for name in ("LEFT_S", "PASS_S", "RETRY_S"):
        monkeypatch.setattr(updater_module, name, 0.1)
    await check_objects(tmp_path, seed, steps=25, is_lossy=seed % 2 == 1)


@pytest.mark.all_only
@pytest.mark.parametrize("seed", range(100, 160))
async def test_an_object_is_linearizable_under_many_seeds(tmp_path, monkeypatch, seed):
    for name in ("LEFT_S", "PASS_S", "RETRY_S"):
        monkeypatch.setattr(updater_module, name, 0.1)
    await check_objects(tmp_path, seed, steps=60, is_lossy=seed % 2 == 1)


async def check_listings(tmp_path, seed, *, turns):
    """One writer per name, many listers: a listing shows what was answered before it began, and none takes anything back."""
    chance = random.Random(seed)
    async with running(tmp_path, gateways=3, request_timeout_s=2.0) as cluster:
        loop = asyncio.get_running_loop()
        states = {f"n{number}": [] for number in range(3)}          # name -> writes of its presence
        shown = {name: [] for name in states}                       # name -> reads of its presence
        is_over = asyncio.Event()
        trouble = asyncio.create_task(hurt(cluster, chance, (3, 4, 5), is_over))

        async def writer(name, store):
            for turn in range(turns):
                begin_s = loop.time()
                is_live = turn % 2 == 0
                try:
                    info = await (put(store, name, b"x") if is_live else delete(store, name))
                    end_s = loop.time() if info.is_listed else NEVER_S
                except StorageError:
                    end_s = NEVER_S
                states[name].append(write(is_live or None, begin_s, end_s))
                if end_s == NEVER_S:
                    return               # what comes after an unknown outcome says little

        async def lister(store):
            while not is_over.is_set():
                begin_s = loop.time()
                try:
                    found = set(await listing(store))
                except StorageError:
                    continue
                for name in states:
                    shown[name].append(read(name in found or None, begin_s, loop.time()))

        listers = [asyncio.create_task(lister(store)) for store in (cluster.store(3), cluster.store(4), cluster.store(5))]
        await asyncio.gather(*(writer(name, cluster.store(3 + index % 3)) for index, name in enumerate(states)))
        is_over.set()
        await asyncio.gather(trouble, *listers)
        assert sum(len(reads) for reads in shown.values()) > 0
        for name, writes in states.items():
            assert is_linearizable(writes + shown[name]), (name, writes, shown[name])


@pytest.mark.parametrize("seed", range(3))
async def test_listings_are_linearizable_name_by_name(tmp_path, seed):
    await check_listings(tmp_path, seed, turns=16)


@pytest.mark.all_only
@pytest.mark.parametrize("seed", range(100, 140))
async def test_listings_are_linearizable_under_many_seeds(tmp_path, seed):
    await check_listings(tmp_path, seed, turns=60)

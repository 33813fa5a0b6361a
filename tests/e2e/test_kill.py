"""kill -9 under load: what was acknowledged is read back and listed, what was not is whole or absent, and nobody sees a 5xx."""
from __future__ import annotations

import hashlib
import http.client
import os
import random
import signal
import threading
import time
from urllib.parse import quote, urlsplit

import pytest

CLIENTS, NAMES_EACH = 6, 8
SIZES = (0, 100, 5_000, 5_000, 150_000)


# of conftest.py, which importlib mode does not let us import by name
@pytest.fixture
def tools(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py"))


class Writer(threading.Thread):
    """One client with names of its own: writes, deletes and reads them, and knows what each may hold.

    `may_be[name]`: bodies (None: absent) in the order of the writes: first the one that was acknowledged last, then those of
    which nobody knows. What a read has shown rules out everything before it.
    """

    def __init__(self, url, token, number):
        super().__init__(daemon=True)
        self.address, self.path = urlsplit(url).netloc, urlsplit(url).path
        self.token, self.number = token, number
        self.random = random.Random(number)
        self.may_be = {f"w{number}/{index}": [None] for index in range(NAMES_EACH)}
        self.is_over = threading.Event()
        self.connection = None
        self.wrong = []                                  # what must not be
        self.acknowledged, self.broken, self.slowest_s = 0, 0, 0.0

    def run(self):
        try:
            while not self.is_over.is_set():
                self.step(self.random.choice(sorted(self.may_be)))
        except Exception as error:                       # a thread's exception is seen by nobody else
            self.wrong.append(repr(error))

    def call(self, method, name, body=None):
        """(status, body, fields), or None when the connection broke: the outcome is unknown."""
        began_s = time.monotonic()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address, timeout=60)
            self.connection.request(method, f"{self.path}/c/{quote(name)}", body, {"X-Auth-Token": self.token})
            answer = self.connection.getresponse()
            found = answer.status, answer.read(), dict(answer.getheaders())
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            self.broken += 1
            time.sleep(0.01)                             # a real client backs off, too
            return None
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        if found[0] >= 500:
            self.wrong.append(f"{method} {name}: {found[0]} {found[1][:200]!r}")
            return None
        return found

    def step(self, name):
        what = self.random.random()
        if what < 0.5:
            body = self.random.randbytes(self.random.choice(SIZES)) + f"{name} {self.random.random()}".encode()
            self.note(name, body, self.call("PUT", name, body), {201})
        elif what < 0.7:
            self.note(name, None, self.call("DELETE", name), {204, 404})
        else:
            self.read(name)

    def note(self, name, body, answer, good):
        if answer is None:
            self.may_be[name].append(body)
        elif answer[0] in good:
            self.may_be[name] = [body]
            self.acknowledged += 1
        else:
            self.wrong.append(f"{name}: {answer[:2]}")

    def read(self, name):
        answer = self.call("GET", name)
        if answer is None:
            return
        status, body, fields = answer
        found = body if status == 200 else None
        if found not in self.may_be[name] or status not in (200, 404):
            held = [len(b) if b is not None else None for b in self.may_be[name]]
            self.wrong.append(f"GET {name}: {status}, {len(body)} bytes; may be {held}")
            return
        if found is not None and fields.get("Etag") != hashlib.md5(found).hexdigest():
            self.wrong.append(f"GET {name}: etag {fields.get('Etag')}")
        at = len(self.may_be[name]) - 1 - self.may_be[name][::-1].index(found)
        self.may_be[name] = self.may_be[name][at:]


class Load:
    """Writers on a node; `check` ends them and looks at everything."""

    def __init__(self, node):
        self.node = node
        self.client = node.login()
        assert self.client.call("PUT", "/c")[0] in (201, 202)
        self.writers = [Writer(self.client.url, self.client.token, number) for number in range(CLIENTS)]
        for writer in self.writers:
            writer.start()

    @property
    def acknowledged(self):
        return sum(writer.acknowledged for writer in self.writers)

    def go_on(self, tools, count=40):
        """Until so many more writes were acknowledged."""
        goal = self.acknowledged + count
        tools.wait_until(lambda: self.acknowledged >= goal or self.wrong, "writes go on")
        assert self.wrong == []

    @property
    def wrong(self):
        return [what for writer in self.writers for what in writer.wrong]

    def stop(self):
        for writer in self.writers:
            writer.is_over.set()
        for writer in self.writers:
            writer.join(90)
            assert not writer.is_alive()

    def move(self, node):
        """The node was started again: maybe on another port."""
        self.client = node.login()
        for writer in self.writers:
            writer.address, writer.path = urlsplit(self.client.url).netloc, urlsplit(self.client.url).path
            writer.token = self.client.token

    def listed(self):
        status, body = self.client.call("GET", "/c?limit=10000")
        assert status in (200, 204)
        return set(body.decode().splitlines())

    def check(self, tools):
        """Acknowledged states are listed at once, unknown ones once their reads have settled them."""
        assert self.wrong == []
        listed = self.listed()
        for writer in self.writers:
            for name, bodies in writer.may_be.items():
                if len(bodies) == 1:
                    assert (name in listed) == (bodies[0] is not None), name
                writer.read(name)
        assert self.wrong == []

        def agree():
            for writer in self.writers:
                for name in writer.may_be:
                    writer.read(name)
            return self.listed() == {name for writer in self.writers for name in writer.may_be
                                     if writer.call("GET", name)[0] == 200}
        tools.wait_until(agree, "the listing says what the objects say")
        assert self.wrong == []


def is_whole(node):
    facts = node.status()
    return [device["state"] for device in facts.get("devices", ())] == ["ok"] * 3


def kill_workers(node, tools, indexes):
    """kill -9, then wait until new ones are ready; how long their devices were away."""
    victims = {index: node.pids["workers"][index] for index in indexes}
    began_s = time.monotonic()
    for victim in victims.values():
        os.kill(victim, signal.SIGKILL)
    tools.wait_until(lambda: all(node.pids["workers"][i] not in (pid, None) for i, pid in victims.items()), "new workers")
    away_s = time.monotonic() - began_s
    tools.wait_until(lambda: is_whole(node), "all devices count")
    return away_s


def test_killed_workers_lose_nothing_and_nobody_sees_a_5xx(make_node, tools, record_property):
    node = make_node("--workers", "2")
    node.up()
    load = Load(node)
    away_s = []
    try:
        load.go_on(tools)
        for indexes in ([0], [1], [0, 1]):
            away_s.append(kill_workers(node, tools, indexes))
            load.go_on(tools)
    finally:
        load.stop()
    slowest_s = max(writer.slowest_s for writer in load.writers)
    record_property("away_s", away_s)
    print(f"acknowledged={load.acknowledged} broken={sum(w.broken for w in load.writers)} "
          f"away_s={[round(s, 2) for s in away_s]} slowest_request_s={slowest_s:.2f}")
    assert sum(writer.broken for writer in load.writers) > 0, "no connection broke: nothing was killed under load"
    load.check(tools)


def test_a_killed_supervisor_takes_its_workers_along_and_the_next_start_finds_everything(make_node, tools):
    node = make_node("--workers", "2")
    node.up()
    load = Load(node)
    try:
        load.go_on(tools)
        pids = node.all_pids()
        os.kill(node.pids["supervisor"], signal.SIGKILL)
        tools.wait_until(lambda: not any(tools.is_running(pid) for pid in pids), "no process is left")
    finally:
        load.stop()
    assert load.wrong == []
    node.up()
    load.move(node)
    load.check(tools)


@pytest.mark.all_only
def test_many_kills_lose_nothing(make_node, tools):
    node = make_node("--workers", "3")
    node.up()
    chance = random.Random(5)
    load = Load(node)
    try:
        for _ in range(12):
            load.go_on(tools, 150)
            kill_workers(node, tools, chance.sample(range(3), chance.randrange(1, 4)))
        load.go_on(tools)
    finally:
        load.stop()
    load.check(tools)

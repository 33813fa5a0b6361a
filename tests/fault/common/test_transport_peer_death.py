"""A peer dies, comes back, or sends nonsense: calls fail, or are sent again with the same fields; nothing hangs."""
from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
from contextlib import asynccontextmanager

import pytest

from common.errors import HandshakeRefused, TransportLost
from common.faultnet import Direction, FaultRules
from common.frames import HEAD_BYTES, FrameWriter
from common.transport import Credentials, RpcClient, RpcServer, cluster_keys, unix_connector

LOOK, HOLD = 16, 17
T = 20.0


def credentials(name, fingerprint="f"):
    return Credentials(name=name, role="worker", fingerprint=fingerprint, keys=cluster_keys(b"secret"))


class Peer:
    """A server that can be killed and started again; `seen` are the calls that reached any of its lives."""

    def __init__(self, path):
        self.path, self.seen, self.arrived, self.server = path, [], asyncio.Event(), None
        self.is_answering = True

    def hold(self, call):
        self.seen.append((call.fields, call.body))
        self.arrived.set()
        if self.is_answering:
            return call.fields, call.body
        return asyncio.get_running_loop().create_future()

    async def start(self, fingerprint="f"):
        self.server = RpcServer({LOOK: lambda call: (call.fields, call.body), HOLD: self.hold},
                                credentials=credentials("n2/w0", fingerprint))
        await self.server.listen_unix(self.path)

    async def kill(self):
        for session in list(self.server.sessions):
            session.link.abort("killed")
        await self.server.close()


@asynccontextmanager
async def cluster(tmp_path, **options):
    peer = Peer(tmp_path / "s")
    await peer.start()
    client = RpcClient(unix_connector(tmp_path / "s"), credentials=credentials("n1/w0"), expected="n2/w0", rng=random.Random(1),
                       **options)
    try:
        yield client, peer
    finally:
        await client.close()
        await peer.kill()


async def disconnected(client):
    """Turns of the loop until the client has noticed."""
    while client.is_connected:                                   # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_unanswered_calls_fail_when_the_peer_dies(tmp_path):
    async with cluster(tmp_path) as (client, peer):
        peer.is_answering = False
        calls = [client.call(HOLD, [n], timeout_s=T) for n in range(10)]
        await asyncio.wait_for(peer.arrived.wait(), T)
        await peer.kill()
        for call in calls:
            with pytest.raises(TransportLost):
                await call
        assert client.in_flight_count == 0


async def test_an_unanswered_call_with_resend_is_executed_again_with_the_same_fields(tmp_path):
    async with cluster(tmp_path) as (client, peer):
        peer.is_answering = False
        again = client.call(HOLD, ["ballot", 7], b"body", timeout_s=T, resend=True)
        once = client.call(HOLD, ["once"], timeout_s=T)
        await asyncio.wait_for(peer.arrived.wait(), T)
        await peer.kill()
        with pytest.raises(TransportLost):
            await once
        peer.is_answering = True
        await peer.start()
        assert await again == (["ballot", 7], b"body")
        assert [call for call in peer.seen if call[0] != ["once"]] == [(["ballot", 7], b"body")] * 2
        assert peer.seen.count((["once"], b"")) == 1


async def test_calls_made_while_the_peer_is_away_are_executed_once_when_it_is_back(tmp_path):
    async with cluster(tmp_path) as (client, peer):
        await client.connected(timeout_s=T)
        await peer.kill()
        await disconnected(client)
        calls = [client.call(HOLD, [n], timeout_s=T) for n in range(5)]
        await peer.start()
        assert [fields for fields, _ in await asyncio.gather(*calls)] == [[n] for n in range(5)]
        assert [fields for fields, _ in peer.seen] == [[n] for n in range(5)]


async def test_a_peer_that_comes_back_with_another_configuration_is_refused_and_taken_again_when_it_is_mended(tmp_path):
    async with cluster(tmp_path) as (client, peer):
        peer.is_answering = False
        call = client.call(HOLD, [], timeout_s=T, resend=True)
        await asyncio.wait_for(peer.arrived.wait(), T)
        await peer.kill()
        await peer.start(fingerprint="g")
        with pytest.raises(HandshakeRefused, match="configuration"):
            await call
        await peer.kill()
        await peer.start()
        while not client.is_connected:
            try:
                await client.connected(timeout_s=T)
            except HandshakeRefused:
                await asyncio.sleep(0)
        assert await client.call(LOOK, [1], timeout_s=T) == ([1], b"")


def serve(path, ready):
    async def main():
        server = RpcServer({LOOK: lambda call: ((os.getpid(),), b""), HOLD: lambda call: os.kill(os.getpid(), 9)},
                           credentials=credentials("n2/w0"))
        await server.listen_unix(path)
        ready.set()
        await asyncio.get_running_loop().create_future()
    asyncio.run(main())


async def test_a_killed_process_fails_its_calls_and_the_next_one_answers_on_the_same_client(tmp_path):
    context = multiprocessing.get_context("fork")
    client = RpcClient(unix_connector(tmp_path / "s"), credentials=credentials("n1/w0"), rng=random.Random(1))
    pids = []
    for _ in range(2):
        ready = context.Event()
        process = context.Process(target=serve, args=(tmp_path / "s", ready))
        process.start()
        assert await asyncio.to_thread(ready.wait, T)
        pids.append((await client.call(LOOK, [], timeout_s=T))[0][0])
        with pytest.raises(TransportLost):
            await client.call(HOLD, [], timeout_s=T)
        await asyncio.to_thread(process.join, T)
    assert pids[0] != pids[1]
    await client.close()


def broken(raw):
    """Every way to spoil one frame."""
    flipped = bytearray(raw)
    flipped[-1] ^= 1
    return {"checksum": bytes(flipped), "garbage": b"\xff" * 64, "zero": bytes(64),
            "oversized": (9 << 20).to_bytes(4, "big") + raw[4:],
            "short": HEAD_BYTES.to_bytes(4, "big") + raw[4:], "no deadline": FrameWriter().encode(1, LOOK, []),
            "deadline no number": FrameWriter().encode(1, LOOK, ["soon"]), "op": FrameWriter().encode(1, 15, [])}


@pytest.mark.parametrize("kind", sorted(broken(bytes(64))))
async def test_a_spoiled_frame_costs_the_connection_and_nothing_of_it_is_executed(tmp_path, kind):
    async with cluster(tmp_path) as (client, peer):
        peer.is_answering = False
        waiting = client.call(HOLD, ["before"], timeout_s=T)
        await asyncio.wait_for(peer.arrived.wait(), T)
        frame = FrameWriter().encode(9, HOLD, [1000, "spoiled"], b"x" * 50) + b"x" * 50
        client._link.transport.write(broken(frame)[kind])
        with pytest.raises(TransportLost):
            await waiting
        assert peer.seen == [(["before"], b"")]
        assert await client.call(LOOK, [1], timeout_s=T) == ([1], b"")


@pytest.mark.parametrize("kind", ["checksum", "garbage", "zero", "oversized", "op"])
async def test_a_spoiled_answer_costs_the_connection_and_is_never_taken_for_one(tmp_path, kind):
    async with cluster(tmp_path) as (client, peer):
        peer.is_answering = False
        waiting = client.call(HOLD, ["before"], timeout_s=T)
        await asyncio.wait_for(peer.arrived.wait(), T)
        (session,) = peer.server.sessions
        frame = FrameWriter().encode(1, 0, ["spoiled"], b"x" * 50) + b"x" * 50
        session.link.transport.write(broken(frame)[kind])
        with pytest.raises(TransportLost):
            await waiting
        assert await client.call(LOOK, [1], timeout_s=T) == ([1], b"")


async def test_a_connection_that_ends_inside_a_frame_executes_nothing_of_it(tmp_path):
    async with cluster(tmp_path) as (client, peer):
        await client.connected(timeout_s=T)
        frame = FrameWriter().encode(9, HOLD, [1000, "half"], b"x" * 5000)
        client._link.transport.write(frame + b"x" * 4999)
        client._link.transport.close()
        await disconnected(client)
        assert await client.call(LOOK, [1], timeout_s=T) == ([1], b"")
        assert peer.seen == []


async def test_a_lost_answer_does_not_hold_the_calls_behind_it(tmp_path):
    faults = FaultRules()
    async with cluster(tmp_path, faults=faults) as (client, peer):
        rule = faults.drop("n2/w0", direction=Direction.FROM, match=lambda op, fields: op == HOLD, count_max=1)
        lost = client.call(HOLD, [0], timeout_s=T)
        assert await client.call(HOLD, [1], timeout_s=T) == ([1], b"")
        assert rule.seen_count == 1 and not lost.done() and [fields for fields, _ in peer.seen] == [[0], [1]]
        lost.cancel()

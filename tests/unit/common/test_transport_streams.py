"""Streams: whole or an error, bounded by their window, and never in the way of calls."""
from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from common.errors import Conflict, DeadlineExceeded, NotFound, Overloaded, StreamAborted, TransportLost, UnknownError
from common.faultnet import Direction, FaultRules
from common.frames import CREDIT
from common.streams import DOWNLOAD_WINDOW_BYTES, InFlow, OutFlow
from common.transport import (
    DATA_BYTES_MAX,
    WINDOW_BYTES,
    Credentials,
    Download,
    RpcClient,
    RpcServer,
    cluster_keys,
    unix_connector,
)

ECHO, PUT, STUCK, REFUSE, EARLY, GET, PLAIN, BROKEN, MISSING, BUG = range(16, 26)
T = 20.0


def credentials(name):
    return Credentials(name=name, role="worker", fingerprint="f", keys=cluster_keys(b"secret"))


class Store:
    """Handlers that stream; events tell the test what happened inside."""

    def __init__(self):
        self.body = random.Random(5).randbytes(3_000_001)
        self.go, self.closed, self.streams, self.errors = asyncio.Event(), asyncio.Event(), [], []
        self.failed = asyncio.Event()
        self.produced_bytes = 0

    def table(self):
        return {ECHO: lambda call: (call.fields, call.body), PUT: self.put, STUCK: self.stuck, REFUSE: self.refuse,
                EARLY: lambda call: ((["enough"]), b""), GET: self.get, PLAIN: lambda call: (["small"], self.body[:1000]),
                BROKEN: self.broken, MISSING: self.missing, BUG: self.bug}

    async def put(self, call):
        parts = []
        try:
            async for chunk in call.stream:
                assert 0 < len(chunk) <= DATA_BYTES_MAX
                parts.append(chunk)
        except Exception as error:
            self.errors.append(error)
            self.failed.set()
            raise
        return [*call.fields, *call.stream.end_fields, len(b"".join(parts))], b"".join(parts)[-10:]

    async def stuck(self, call):
        self.streams.append(call.stream)
        await self.go.wait()
        return await self.put(call)

    async def refuse(self, call):
        await call.stream.read()
        raise Conflict(what="object")

    def get(self, call):
        return Download(["head", *call.fields], self.chunks())

    async def chunks(self):
        try:
            for at in range(0, len(self.body), 100_000):
                self.produced_bytes += len(self.body[at:at + 100_000])
                yield self.body[at:at + 100_000]
        finally:
            self.closed.set()

    def broken(self, call):
        async def chunks():
            yield b"some"
            raise NotFound(what="block")
        return Download([], chunks())

    def bug(self, call):
        async def chunks():
            yield b"some"
            raise ZeroDivisionError
        return Download([], chunks())

    async def missing(self, call):
        raise NotFound(what="object")


@asynccontextmanager
async def pair(tmp_path, *, faults=None):
    store = Store()
    server = store.server = RpcServer(store.table(), credentials=credentials("n2/w0"), faults=faults)
    await server.listen_unix(tmp_path / "s")
    client = RpcClient(unix_connector(tmp_path / "s"), credentials=credentials("n1/w0"), rng=random.Random(1))
    try:
        yield client, store
    finally:
        await client.close()
        await server.close()


async def read_all(stream):
    return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("sizes", [[], [1], [WINDOW_BYTES], [5_000_000], [100_000] * 40, [1, WINDOW_BYTES + 1, 0, 7]])
async def test_an_upload_arrives_whole(tmp_path, sizes):
    async with pair(tmp_path) as (client, _):
        upload = client.open_upload(PUT, ["name"], timeout_s=T)
        body = b""
        for n, size in enumerate(sizes):
            chunk = bytes([n]) * size
            body += chunk
            await upload.write(chunk)
        assert await upload.finish(["etag"]) == (["name", "etag", len(body)], body[-10:])


async def test_a_download_arrives_whole(tmp_path):
    async with pair(tmp_path) as (client, store):
        download = await client.open_download(GET, ["name"], timeout_s=T)
        assert download.fields == ["head", "name"]
        assert await read_all(download) == store.body
        assert await download.read() == b""
        assert store.closed.is_set()


async def test_an_answer_in_one_frame_reads_like_a_stream(tmp_path):
    async with pair(tmp_path) as (client, store):
        download = await client.open_download(PLAIN, [], timeout_s=T)
        assert (download.fields, await read_all(download)) == (["small"], store.body[:1000])


async def test_a_stuck_reader_holds_one_window_and_no_call_or_other_stream(tmp_path):
    async with pair(tmp_path) as (client, store):
        stuck = client.open_upload(STUCK, [], timeout_s=T)
        writing = asyncio.create_task(stuck.write(bytes(4 * WINDOW_BYTES)))
        unread = await client.open_download(GET, [], timeout_s=T)
        for _ in range(3):
            upload = client.open_upload(PUT, [], timeout_s=T)
            await upload.write(bytes(2 * WINDOW_BYTES))
            assert (await upload.finish())[0] == [2 * WINDOW_BYTES]
            assert await client.call(ECHO, [1], timeout_s=T) == ([1], b"")
            assert await client._bulk.call(ECHO, [1], timeout_s=T) == ([1], b"")
        assert not writing.done()
        (stream,) = store.streams
        assert stream._buffered_bytes == WINDOW_BYTES
        assert DOWNLOAD_WINDOW_BYTES <= store.produced_bytes <= DOWNLOAD_WINDOW_BYTES + 100_000
        store.go.set()
        await writing
        assert (await stuck.finish())[0] == [4 * WINDOW_BYTES]
        assert await read_all(unread) == store.body


async def test_a_piece_is_written_when_its_reader_asks_for_the_next_one():
    sent, frames = [], []
    reader = InFlow(lambda op, fields, body=b"": frames.append((op, fields)), wait_s=T)

    def send(op, fields, body=b""):
        sent.append(len(body))
        assert reader.feed(bytes(body), is_piece_end=bool(fields))

    async def drain():
        pass

    writer = OutFlow(send, drain, wait_s=T)
    writing = asyncio.create_task(writer.write(bytes(300_000), is_piece_end=True))
    assert sum(map(len, await reader.read_piece())) == 300_000 and sum(sent) == 300_000
    await asyncio.sleep(0)
    assert not writing.done() and not frames             # the reader may still be at work with it
    asking = asyncio.create_task(reader.read_piece())
    await asyncio.sleep(0)
    assert frames == [(CREDIT, (300_000,))]
    writer.grant(300_000)
    await writing
    reader.end([])
    assert await asking == []


async def test_a_piece_larger_than_the_window_comes_in_parts():
    parts = []
    reader = InFlow(lambda op, fields, body=b"": writer.grant(fields[0]) if op == CREDIT else None, wait_s=T)

    async def drain():
        pass

    writer = OutFlow(lambda op, fields, body=b"": reader.feed(bytes(body), is_piece_end=bool(fields)), drain, wait_s=T)
    writing = asyncio.create_task(writer.write(bytes(3 * WINDOW_BYTES), is_piece_end=True))
    while sum(parts) < 3 * WINDOW_BYTES:
        parts.append(sum(map(len, await reader.read_piece())))
        assert parts[-1] <= WINDOW_BYTES
    reader.end([])
    assert await reader.read_piece() == []
    writer.grant(WINDOW_BYTES)
    await writing


async def test_a_writer_waits_no_longer_than_its_timeout(tmp_path):
    async with pair(tmp_path) as (client, store):
        upload = client.open_upload(STUCK, [], timeout_s=0.02)
        with pytest.raises(DeadlineExceeded):
            await upload.write(bytes(2 * WINDOW_BYTES))
        upload.abort()
        store.go.set()


async def test_an_error_of_the_handler_reaches_the_writer_and_the_end(tmp_path):
    async with pair(tmp_path) as (client, _):
        upload = client.open_upload(REFUSE, [], timeout_s=T)
        with pytest.raises(Conflict):
            await upload.write(bytes(4 * WINDOW_BYTES))
        with pytest.raises(Conflict):
            await upload.finish()
        assert await client._bulk.call(ECHO, [1], timeout_s=T) == ([1], b"")


async def test_an_early_answer_ends_the_upload_without_an_error(tmp_path):
    async with pair(tmp_path) as (client, _):
        upload = client.open_upload(EARLY, [], timeout_s=T)
        await upload.write(bytes(4 * WINDOW_BYTES))
        assert await upload.finish() == (["enough"], b"")


async def test_an_aborted_upload_is_never_taken_for_a_whole_one(tmp_path):
    async with pair(tmp_path) as (client, store):
        upload = client.open_upload(PUT, [], timeout_s=T)
        await upload.write(b"half")
        upload.abort("client went away")
        await asyncio.wait_for(store.failed.wait(), T)
        (error,) = store.errors
        assert isinstance(error, StreamAborted) and error.fields["reason"] == "client went away"
        assert client._bulk.in_flight_count == 0


@pytest.mark.parametrize(("op", "kind"), [(BROKEN, NotFound), (BUG, UnknownError)])
async def test_a_download_that_breaks_ends_in_an_error_and_not_in_an_end(tmp_path, op, kind):
    async with pair(tmp_path) as (client, _):
        download = await client.open_download(op, [], timeout_s=T)
        with pytest.raises(kind):
            await read_all(download)


async def test_a_download_of_nothing_raises_at_once_and_leaves_nothing(tmp_path):
    async with pair(tmp_path) as (client, _):
        with pytest.raises(NotFound):
            await client.open_download(MISSING, [], timeout_s=T)
        assert not client._bulk._in and client._bulk.in_flight_count == 0


async def test_a_stream_for_a_plain_call_is_an_error(tmp_path):
    async with pair(tmp_path) as (client, _):
        with pytest.raises(UnknownError):
            await client.call(GET, [], timeout_s=T)


async def test_cancelling_a_download_stops_the_server(tmp_path):
    async with pair(tmp_path) as (client, store):
        download = await client.open_download(GET, [], timeout_s=T)
        await download.read()
        download.cancel()
        await asyncio.wait_for(store.closed.wait(), T)
        with pytest.raises(StreamAborted):
            await read_all(download)
        assert store.produced_bytes < len(store.body)


async def test_an_opener_that_gave_up_leaves_no_stream_behind(tmp_path):
    faults = FaultRules()
    async with pair(tmp_path, faults=faults) as (client, store):
        rule = faults.hold(direction=Direction.TO, match=lambda op, fields: op == GET)
        with pytest.raises(DeadlineExceeded):
            await client.open_download(GET, [], timeout_s=0.02)
        faults.release(rule)
        await asyncio.wait_for(store.closed.wait(), T)


async def test_both_ends_of_streams_fail_when_the_connection_breaks(tmp_path):
    async with pair(tmp_path) as (client, store):
        upload = client.open_upload(PUT, [], timeout_s=T)
        await upload.write(b"half")
        download = await client.open_download(GET, [], timeout_s=T)
        await client._bulk.call(ECHO, [], timeout_s=T)
        for session in list(store.server.sessions):
            session.link.abort("killed")
        with pytest.raises(TransportLost):
            await read_all(download)
        with pytest.raises(TransportLost):
            await upload.finish()
        await asyncio.wait_for(store.failed.wait(), T)
        assert isinstance(store.errors[0], TransportLost)
        await asyncio.wait_for(store.closed.wait(), T)
        upload = client.open_upload(PUT, [], timeout_s=T)
        assert (await upload.finish())[0] == [0]


async def test_data_beyond_the_window_closes_the_connection(tmp_path):
    async with pair(tmp_path) as (client, store):
        upload = client.open_upload(STUCK, [], timeout_s=T)
        await upload.write(b"x")
        upload._flow._credit_bytes = 10 * WINDOW_BYTES
        with pytest.raises(TransportLost):
            await upload.write(bytes(2 * WINDOW_BYTES))
            await upload.finish()
        store.go.set()


async def test_streams_of_a_connection_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("common.rpc_server.STREAMS_MAX", 2)
    async with pair(tmp_path) as (client, store):
        held = [client.open_upload(STUCK, [], timeout_s=T) for _ in range(2)]
        for upload in held:
            await upload.write(b"x")
        third = client.open_upload(STUCK, [], timeout_s=T)
        with pytest.raises(Overloaded):
            await third.finish()
        assert await client._bulk.call(ECHO, [1], timeout_s=T) == ([1], b"")
        store.go.set()
        assert [(await upload.finish())[0] for upload in held] == [[1], [1]]


async def test_streams_do_not_share_the_connection_of_calls(tmp_path):
    async with pair(tmp_path) as (client, store):
        upload = client.open_upload(PUT, [], timeout_s=T)
        await upload.finish()
        await client.call(ECHO, [], timeout_s=T)
        assert len(store.server.sessions) == 2

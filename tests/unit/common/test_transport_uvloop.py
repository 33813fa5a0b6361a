"""The loop of production is uvloop: its buffers, sockets and credentials behave as the transport expects."""
from __future__ import annotations

import asyncio

import uvloop

from common.transport import Credentials, Download, RpcClient, RpcServer, cluster_keys, tcp_connector, unix_connector

ECHO, PUT, GET = 16, 17, 18
T = 20.0


def credentials(name):
    return Credentials(name=name, role="worker", fingerprint="f", keys=cluster_keys(b"secret"))


async def put(call):
    return [sum([len(chunk) async for chunk in call.stream])], b""


def get(call):
    async def chunks():
        for n in range(30):
            yield bytes([n]) * 200_000
    return Download([], chunks())


async def use(client):
    answers = await asyncio.gather(*[client.call(ECHO, [n], bytes(n * 100), timeout_s=T) for n in range(1000)])
    assert answers == [([n], bytes(n * 100)) for n in range(1000)]
    upload = client.open_upload(PUT, [], timeout_s=T)
    await upload.write(bytes(5_000_000))
    assert await upload.finish() == ([5_000_000], b"")
    download = await client.open_download(GET, [], timeout_s=T)
    assert b"".join([chunk async for chunk in download]) == b"".join(bytes([n]) * 200_000 for n in range(30))
    await client.close()


def test_calls_and_streams_work_on_uvloop_over_both_kinds_of_socket(tmp_path):
    async def main():
        server = RpcServer({ECHO: lambda call: (call.fields, call.body), PUT: put, GET: get}, credentials=credentials("n2/w0"))
        await server.listen_unix(tmp_path / "s")
        port = await server.listen_tcp("127.0.0.1", 0)
        for connect in (unix_connector(tmp_path / "s"), tcp_connector("127.0.0.1", port)):
            await use(RpcClient(connect, credentials=credentials("n1/w0"), expected="n2/w0"))
        await server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

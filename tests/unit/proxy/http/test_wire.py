"""The front on a loopback socket: what a client sees of it, on both event loops."""
import asyncio
import os
import ssl
import subprocess

import pytest

from common.errors import BodyTooShort
from proxy.http.message import FileBody, FileSpan, Response
from proxy.http.server import HttpLimits, make_ssl_context
from tests.unit.proxy.http.front_helpers import LOOPS, Front, run, settle, until

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


def get(path="/", *lines, method="GET", version="1.1"):
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *lines, "", ""]).encode()


def put(body, *lines, path="/"):
    return get(path, f"Content-Length: {len(body)}", *lines, method="PUT") + body


async def echo(request):
    """Answers method, path and body; waits once if the path says so."""
    if b"wait" in request.path:
        await asyncio.sleep(0)
    ready = request.body.take_ready()
    body = await request.body.read_all(1 << 30) if ready is None else ready
    return Response(200, [("X-Path", request.path.decode())], request.method.encode() + b" " + body)


def test_small_requests_are_answered_on_one_connection(loop):
    async def test():
        async with Front(echo) as front:
            client = await front.connect()
            for data in (get("/a"), put(b"xyz", path="/b"), get("/wait")):
                await client.send(data)
                status, fields, body = await client.answer()
                assert status == 200 and "connection" not in fields and fields["date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
            assert body == b"GET " and front.server.connections.requests == 3 and front.server.connections.accepted == 1
            assert [done[2] for done in front.done] == [4, 7, 4]
            client.close()
    run(test, loop)


def test_pipelined_requests_are_answered_in_their_order_whoever_waits(loop):
    async def test():
        async with Front(echo) as front:
            client = await front.connect()
            paths = [f"/{'wait' if i % 3 == 0 else 'now'}{i}" for i in range(50)]
            await client.send(b"".join(put(p.encode() * i, path=p) for i, p in enumerate(paths)))
            for i, path in enumerate(paths):
                _, fields, body = await client.answer()
                assert fields["x-path"] == path and body == b"PUT " + path.encode() * i
            client.close()
    run(test, loop)


def test_answers_of_one_read_leave_in_one_write(loop):
    async def test():
        async with Front(echo) as front:
            client = await front.connect()
            await client.send(get("/a"))
            await client.answer()
            (connection,) = front.server._connections
            writes = []
            original = connection._out.write
            type(connection._out).write, restore = (lambda self, data: (writes.append(data), original(data))[1],
                                                    type(connection._out).write)
            try:
                await client.send(get("/b") * 5)
                for _ in range(5):
                    await client.answer()
            finally:
                type(connection._out).write = restore
            assert len(writes) == 1
            client.close()
    run(test, loop)


@pytest.mark.parametrize("size", [0, 65_536, 65_537, 262_144, 262_145, 3_000_000])
@pytest.mark.parametrize("expects", [False, True])
def test_a_body_of_any_size_arrives_and_the_next_request_behind_it(size, expects, loop):
    async def test():
        async with Front(echo) as front:
            client = await front.connect()
            body = os.urandom(size)
            head, lines = put(body, *(["Expect: 100-continue"] if expects else [])), []
            head = head[:len(head) - size]
            if expects and size:
                await client.send(head)
                assert (await client.answer())[0] == 100
                client.writer.write(body + get("/next"))
            else:
                client.writer.write(head + body + get("/next"))
            assert (await client.answer())[2] == b"PUT " + body
            assert (await client.answer())[1]["x-path"] == "/next"
            assert front.server.pool.used == 0 and not lines
            client.close()
    run(test, loop)


@pytest.mark.parametrize("size", [1, 100_000, 2_000_000])
def test_a_chunked_body_arrives_and_the_next_request_behind_it(size, loop):
    async def test():
        async with Front(echo) as front:
            client = await front.connect()
            body = os.urandom(size)
            half = size // 2
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:half], body[half:]) if p) + b"0\r\n\r\n"
            client.writer.write(get("/c", "Transfer-Encoding: chunked", method="PUT") + chunks + get("/next"))
            assert (await client.answer())[2] == b"PUT " + body
            assert (await client.answer())[1]["x-path"] == "/next"
            client.close()
    run(test, loop)


def test_leases_show_the_body_without_a_copy_and_give_their_buffers_back(loop):
    async def app(request):
        held, sizes = [], []
        while True:
            lease = await request.body.read_lease()
            if not lease.view:
                break
            sizes.append(len(lease.view))
            held.append(lease)
            if len(held) == 4:
                for lease in held:
                    lease.release()
                held.clear()
        return Response(200, [], str(sum(sizes)).encode())          # up to three are never released

    async def test():
        async with Front(app, HttpLimits(body_buffer_count=4)) as front:
            client = await front.connect()
            for _ in range(3):
                client.writer.write(put(bytes(7_500_000)))
                assert (await client.answer())[2] == b"7500000"
                assert front.server.pool.used == 0
            client.close()
    run(test, loop)


def test_uploads_wait_for_buffers_and_all_get_through(loop):
    async def test():
        async with Front(echo, HttpLimits(body_buffer_count=2)) as front:
            clients = [await front.connect() for _ in range(5)]
            bodies = [os.urandom(1_500_000) for _ in clients]
            for client, body in zip(clients, bodies):
                client.writer.write(put(body))
            for client, body in zip(clients, bodies):
                assert (await client.answer())[2] == b"PUT " + body
                client.close()
            assert front.server.pool.used == 0
    run(test, loop)


def test_an_expecting_client_is_refused_without_its_body(loop):
    async def app(request):
        return Response(401, [], b"no")

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(get("/", "Content-Length: 99", "Expect: 100-continue", method="PUT"))
            status, fields, _ = await client.answer()
            assert status == 401 and fields["connection"] == "close"
            assert await client.reader.read(-1) == b""
            client.close()
    run(test, loop)


def test_an_unread_small_rest_is_dropped_and_the_connection_lives(loop):
    async def app(request):
        return Response(200, [], request.method.encode())

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n")
            assert (await client.answer())[2] == b"POST"
            await client.send(get("/"))
            assert (await client.answer())[2] == b"GET"
            client.close()
    run(test, loop)


def test_an_unread_large_body_gets_its_answer_and_a_close(loop):
    async def app(request):
        return Response(403, [], b"no")

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            client.writer.write(get("/", f"Content-Length: {1 << 30}", method="PUT") + bytes(1_000_000))
            status, fields, body = await client.answer()
            assert (status, body, fields["connection"]) == (403, b"no", "close")
            assert front.server.pool.used == 0
            client.close()
    run(test, loop)


def test_head_has_the_length_and_no_body(loop):
    closed = []

    async def app(request):
        if request.path == b"/file":
            return Response(200, [], FileBody([FileSpan(0, 0, 77)], 77, lambda: closed.append(1)))
        if request.path == b"/object":
            return Response(200, [], content_length=123)
        return Response(200, [], b"12345")

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            for path, length in (("/", "5"), ("/file", "77"), ("/object", "123"), ("/", "5")):
                await client.send(get(path, method="HEAD"))
                assert (await client.answer(is_head=True))[1]["content-length"] == length
            assert closed == [1]
            client.close()
    run(test, loop)


def test_statuses_without_a_body_have_none(loop):
    async def app(request):
        return Response(int(request.path[1:]), [], b"never sent")

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            for status in (204, 304, 200):
                await client.send(get(f"/{status}"))
                got, fields, _ = await client.answer()
                assert got == status and ("content-length" in fields) == (status == 200)
            client.close()
    run(test, loop)


async def pieces(*items):
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


def test_iterators_are_chunked_or_have_their_length_or_end_with_the_connection(loop):
    async def app(request):
        return Response(200, [], pieces(b"ab", b"", b"c" * 500_000), content_length=500_002 if request.path == b"/n" else None)

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(get("/") + get("/n") + get("/", "Connection: keep-alive", version="1.0"))
            answers = [await client.answer() for _ in range(3)]
            assert [a[2] for a in answers] == [b"ab" + b"c" * 500_000] * 3
            assert answers[0][1]["transfer-encoding"] == "chunked" and answers[2][1]["connection"] == "close"
            assert [d[2] for d in front.done] == [500_002] * 3
            client.close()
    run(test, loop)


@pytest.mark.parametrize("body", [
    lambda: (pieces(b"ab", ValueError("x")), None), lambda: (pieces(b"ab"), 3), lambda: (pieces(b"ab", b"cd"), 3)])
def test_an_answer_that_breaks_off_is_seen_as_broken(body, loop):
    async def app(request):
        iterator, length = body()
        return Response(200, [], iterator, content_length=length)

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(get("/"))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await client.answer()
            assert front.server.connections.crashes == 1
            client.close()
    run(test, loop)


@pytest.mark.parametrize("tls", [False, True])
def test_files_are_sent_span_by_span_and_closed(tls, loop, tmp_path):
    path = tmp_path / "body"
    data = os.urandom(5_000_000)
    path.write_bytes(data)
    closed = []

    async def app(request):
        fd = os.open(path, os.O_RDONLY)

        def close():
            os.close(fd)
            closed.append(fd)
        spans = [b"<<", FileSpan(fd, 10, 4_000_000), b"||", FileSpan(fd, 0, 5), b">>"]
        return Response(200, [], FileBody(spans, 4_000_011, close))

    async def test():
        options, front = {}, Front(app)
        if tls:
            server_context, options["ssl"] = tls_contexts(tmp_path)
            start = front.server.start
            front.server.start = lambda **kw: start(ssl=server_context, **kw)
            options["server_hostname"] = "localhost"
        async with front:
            client = await front.connect(**options)
            await client.send(get("/a") + get("/b"))
            for _ in range(2):
                _, _, body = await client.answer()
                assert body == b"<<" + data[10:4_000_010] + b"||" + data[:5] + b">>"
            await until(lambda: len(front.done) == 2)
            assert len(closed) == 2 and front.done[0][2] == 4_000_011
            client.close()
    run(test, loop)


def test_a_file_waits_for_the_answers_before_it(loop, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "body").write_bytes(data)

    async def app(request):
        if request.path == b"/bytes":
            return Response(200, [], bytes(9_000_000))
        fd = os.open(tmp_path / "body", os.O_RDONLY)
        return Response(200, [], FileBody([FileSpan(fd, 0, len(data))], len(data), lambda: os.close(fd)))

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send((get("/bytes") + get("/file")) * 2)
            for _ in range(2):
                assert len((await client.answer())[2]) == 9_000_000
                assert (await client.answer())[2] == data
            client.close()
    run(test, loop)


def tls_contexts(where):
    """A server's and a client's context around a fresh self-signed certificate."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                    "-keyout", where / "key.pem", "-out", where / "cert.pem"], check=True, capture_output=True)
    client = ssl.create_default_context(cafile=str(where / "cert.pem"))
    return make_ssl_context(str(where / "cert.pem"), str(where / "key.pem")), client


def test_uploads_arrive_over_tls(loop, tmp_path):
    async def app(request):
        assert request.scheme == "https"
        return await echo(request)

    async def test():
        server_context, client_context = tls_contexts(tmp_path)
        front = Front(app)
        start = front.server.start
        front.server.start = lambda **kw: start(ssl=server_context, **kw)
        async with front:
            client = await front.connect(ssl=client_context, server_hostname="localhost")
            body = os.urandom(1_500_000)
            client.writer.write(put(body) + get("/next"))
            assert (await client.answer())[2] == b"PUT " + body
            assert (await client.answer())[0] == 200
            client.close()
    run(test, loop)


@pytest.mark.parametrize(("data", "status"), [
    (b"nonsense", 405), (b"GET / HTTP/1.1\n\n", 400), (b"\x16\x03\x01\x00\xa5\x01", 400), (get("/", "A: \0"), 400),
    (get("/", "Content-Length: 1", "Transfer-Encoding: chunked"), 400), (get("/" + "a" * 20_000), 414),
    (get("/", *["A: b"] * 200), 431), (get("/", "Transfer-Encoding: gzip"), 501)])
def test_a_malformed_request_gets_a_sentence_and_a_close_and_what_follows_is_not_a_request(data, status, loop):
    async def test():
        async with Front(echo) as front:
            answer = await front.exchange(get("/first") + data + get("/smuggled"))
            assert answer.count(b"HTTP/1.1 ") == 2 and b"/smuggled" not in answer
            refusal = answer[answer.rindex(b"HTTP/1.1 "):]
            assert refusal.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in refusal
            assert refusal.rstrip().endswith(b".") and front.server.connections.refused == 1
    run(test, loop)


def test_the_app_makes_the_errors_of_the_front(loop):
    async def test():
        async with Front(echo, make_error=lambda status, why: Response(status, [("X-Trans-Id", "tx1")], why.encode())) as front:
            assert b"X-Trans-Id: tx1\r\n" in await front.exchange(b"nonsense")
    run(test, loop)


@pytest.mark.parametrize("app_error", ["raise", "late", "header", "none", "surrogate"])
def test_a_failing_app_gives_500_and_the_connection_lives(app_error, loop):
    async def app(request):
        if request.path == b"/ok":
            return Response(200)
        if app_error == "late":
            await asyncio.sleep(0)
        if app_error == "header":
            return Response(200, [("X", "a\r\nSet-Cookie: b")])
        if app_error == "surrogate":
            return Response(200, [("X", "\ud800")])
        if app_error == "none":
            return None
        raise KeyError("bug")

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(get("/bad") + get("/ok"))
            assert [(await client.answer())[0] for _ in range(2)] == [500, 200]
            assert front.server.connections.crashes == 1
            client.close()
    run(test, loop)


def test_text_of_an_answer_is_utf8_and_escaped_bytes_come_back(loop):
    async def app(request):
        return Response(200, [("X-A", "é☃"), ("X-B", b"\xff\xe9".decode("utf-8", "surrogateescape"))])

    async def test():
        async with Front(app) as front:
            answer = await front.exchange(get("/", "Connection: close"))
            assert "X-A: é☃\r\n".encode() in answer and b"X-B: \xff\xe9\r\n" in answer
    run(test, loop)


def test_old_clients_get_a_close_unless_they_ask_to_stay(loop):
    async def test():
        async with Front(echo) as front:
            answer = await front.exchange(get("/a", "Connection: keep-alive", version="1.0") + get("/b", version="1.0"))
            assert answer.count(b"HTTP/1.1 200") == 2
            assert answer.index(b"Connection: keep-alive") < answer.index(b"Connection: close")
    run(test, loop)


def test_a_half_closed_client_still_gets_its_answers(loop):
    async def test():
        async with Front(echo) as front:
            client = await front.connect()
            client.writer.write(get("/wait1") + get("/wait2"))
            client.writer.write_eof()
            answer = await client.reader.read(-1)
            assert answer.count(b"HTTP/1.1 200") == 2
            client.close()
    run(test, loop)


def test_empty_lines_before_a_request_are_ignored(loop):
    async def test():
        async with Front(echo) as front:
            client = await front.connect()
            for piece in (b"\r", b"\n\r\n", get("/a")[:5], get("/a")[5:] + b"\r\n" + get("/b")):
                await client.send(piece)
                await settle()
            assert [(await client.answer())[1]["x-path"] for _ in range(2)] == ["/a", "/b"]
            client.close()
    run(test, loop)


def test_a_handler_may_use_timeouts_and_task_groups_in_its_first_step(loop):
    async def app(request):
        try:
            async with asyncio.timeout(0 if request.path == b"/late" else 60):
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(asyncio.sleep(0, "done"))
                if request.path == b"/late":
                    await asyncio.Event().wait()
        except TimeoutError:
            return Response(200, [], b"timeout")
        assert asyncio.current_task().cancelling() == 0
        return Response(200, [], task.result().encode())

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            await client.send(get("/") + get("/late") + get("/"))
            assert [(await client.answer())[2] for _ in range(3)] == [b"done", b"timeout", b"done"]
            client.close()
    run(test, loop)


def test_drain_ends_what_runs_and_closes_what_is_idle(loop):
    gate = []

    async def app(request):
        gate.append(asyncio.Event())
        await gate[0].wait()
        return Response(200, [], b"finished")

    async def test():
        front = Front(app)
        await front.__aenter__()
        idle, busy = await front.connect(), await front.connect()
        await busy.send(get("/"))
        await until(lambda: gate)
        drain = asyncio.ensure_future(front.server.drain(10))
        assert await idle.reader.read(-1) == b""
        gate[0].set()
        _, fields, body = await busy.answer()
        assert body == b"finished" and fields["connection"] == "close"
        assert await drain == 0 and front.server.connections.open == 0 and front.server._timer is None
        with pytest.raises(ConnectionError):
            await front.connect()
    run(test, loop)


def test_too_many_connections_are_told_so(loop):
    async def test():
        async with Front(echo, HttpLimits(connection_count_max=1)) as front:
            first = await front.connect()
            await first.send(get("/"))
            await first.answer()
            second = await front.connect()
            assert (await second.answer())[0] == 503
            first.close()
            second.close()
    run(test, loop)


def test_body_reads_after_the_answer_fail(loop):
    kept = []

    async def app(request):
        kept.append(request.body)
        return Response(200)

    async def test():
        async with Front(app) as front:
            client = await front.connect()
            client.writer.write(put(bytes(300_000)))
            await client.answer()
            with pytest.raises(BodyTooShort):
                while await kept[0].read_chunk():
                    pass
            client.close()
    run(test, loop)

"""The front for every input: how the bytes are cut does not matter, and garbage is never more than garbage."""
import asyncio
import http.client
import io
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.http.chunked import ChunkDecoder
from proxy.http.message import Response
from proxy.http.render import render_head
from proxy.http.server import HttpServer

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=12).map(lambda t: "x-" + t)
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
PATH = st.text("abc/%20-_.~", max_size=20).map(lambda t: "/" + t)
BODY = st.binary(max_size=300)


@st.composite
def requests(draw):
    """(bytes on the wire, what the app must see)."""
    method = draw(st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "COPY"]))
    path, fields, body = draw(PATH), draw(st.dictionaries(TOKEN, VALUE, max_size=4)), draw(BODY)
    lines = [f"{method} {path} HTTP/1.1", "Host: h", *(f"{n}: {v}" for n, v in fields.items())]
    if draw(st.booleans()):
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)]) if b > a]
        wire = b"".join(b"%X\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
        lines.append("Transfer-Encoding: chunked")
    else:
        wire = body
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + wire, (method, path.encode(), fields, body)


class FakeTransport:
    """Takes what is written; enough of a transport for a connection without a socket."""

    def __init__(self):
        self.written = b""
        self.is_closed = False

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name):
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    abort = close

    def can_write_eof(self):
        return True

    def set_write_buffer_limits(self, high):
        pass

    write_eof = pause_reading = resume_reading = lambda self: None

    def set_protocol(self, protocol):
        raise AssertionError("no body here is large enough")


def feed(pieces):
    """What the app saw of `pieces` on one connection, the transport, and the server."""
    seen = []

    async def app(request):
        body = await request.body.read_all(1 << 20)
        fields = {n: v for n, v in request.headers.items() if n.startswith("x-")}
        seen.append((request.method, request.raw_path, fields, body))
        return Response(200, [], b"ok")

    transport = FakeTransport()
    loop = asyncio.new_event_loop()
    try:
        server = HttpServer(app)
        server._loop = loop
        connection = server.protocol_factory()
        loop.call_soon(connection.connection_made, transport)
        for piece in pieces:
            loop.call_soon(connection.data_received, piece)
            loop.run_until_complete(asyncio.sleep(0))
        for _ in range(3 + 3 * len(pieces)):
            loop.run_until_complete(asyncio.sleep(0))
        connection.eof_received()
        connection.connection_lost(None)
        server._stop_timer()
        while server._tasks:
            loop.run_until_complete(asyncio.wait(list(server._tasks)))
    finally:
        loop.close()
    return seen, transport, server


def cut(data, points):
    """`data` in pieces, cut at `points`."""
    marks = sorted({p % (len(data) + 1) for p in points} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cut_of_a_valid_sequence_gives_the_same_requests(sequence, points):
    data = b"".join(wire for wire, _ in sequence)
    seen, transport, server = feed(cut(data, points))
    assert seen == [expected for _, expected in sequence]
    assert transport.written.count(b"HTTP/1.1 200 OK\r\n") == len(sequence) and server.counters.refused == 0


@SLOW
@given(requests())
def test_every_single_byte_on_its_own_is_the_same_request(request):
    wire, expected = request
    assert feed(cut(wire, range(len(wire))))[0] == [expected]


@SLOW
@given(st.binary(min_size=1, max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_random_bytes_are_refused_or_wait_for_more_and_never_crash(data, points):
    seen, transport, server = feed(cut(data, points))
    assert not seen and server.counters.crashes == 0
    assert not transport.written or transport.written.startswith(b"HTTP/1.1 4")


@SLOW
@given(requests(), st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=0, max_size=3)), min_size=1, max_size=4),
       st.lists(st.integers(0, 10_000), max_size=4))
def test_a_damaged_request_is_refused_or_another_request_but_never_a_crash(request, damages, points):
    wire = request[0]
    for place, junk in damages:
        place %= len(wire)
        wire = wire[:place] + junk + wire[place + 1:]
        if not wire:
            return
    seen, transport, server = feed(cut(wire, points))
    assert transport.written.count(b"HTTP/1.1 200") <= len(seen)
    assert server.pool.used == 0 and not server._connections and not server._tasks


@SLOW
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_the_chunk_decoder_agrees_with_itself_however_its_input_is_cut(data, points):
    def outcome(pieces):
        decoder, body, rest = ChunkDecoder(), b"", b""
        for piece in pieces:
            if decoder.is_complete:
                rest += piece
                continue
            try:
                found, rest = decoder.feed(piece)
            except Exception as error:
                return type(error)
            body += b"".join(found)
        return (body, rest, True) if decoder.is_complete else None
    whole, parts = outcome([data]), outcome(cut(data, points))
    assert whole == parts or None in (whole, parts)


@SLOW
@given(st.integers(200, 599).filter(lambda s: s not in (204, 304)), st.dictionaries(TOKEN, VALUE, max_size=6), BODY, st.booleans())
def test_an_answer_reads_back_through_another_library(status, fields, body, keeps):
    response = Response(status, list(fields.items()), body)
    wire = render_head(response, date_line="Date: x\r\n", keep_alive=keeps, is_old=False) + body

    class Socket:
        def makefile(self, mode):
            return io.BytesIO(wire)

    got = http.client.HTTPResponse(Socket())
    got.begin()
    assert got.status == status and got.read() == body and got.will_close is not keeps
    assert all(got.headers[name] == value for name, value in fields.items())

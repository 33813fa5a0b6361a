"""The chunk decoder."""
import pytest

from common.errors import BadRequest
from proxy.http.chunked import ChunkDecoder


def decode(data, step=None):
    """(body, rest, complete) of `data` fed in pieces of `step` bytes."""
    decoder, body, rest = ChunkDecoder(), b"", b""
    step = step or len(data) or 1
    for start in range(0, len(data), step):
        if decoder.is_complete:
            rest += data[start:start + step]
            continue
        pieces, rest = decoder.feed(data[start:start + step])
        body += b"".join(pieces)
    return body, rest, decoder.is_complete


@pytest.mark.parametrize("step", [None, 1, 2, 3, 7])
@pytest.mark.parametrize(("data", "body"), [
    (b"0\r\n\r\n", b""), (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    (b"00A\r\n0123456789\r\n1;x=\"y\"\r\n!\r\n0;e\r\n\r\n", b"0123456789!"),
    (b"2\r\n\r\n\r\n0\r\nTrailer: x\r\nB:\r\n\r\n", b"\r\n")])
def test_well_formed_chunks_give_the_body_and_leave_what_follows(data, body, step):
    assert decode(data + b"GET /next", step) == (body, b"GET /next", True)


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize("data", [
    b"x\r\n", b"-1\r\n", b"0x3\r\nabc\r\n", b" 3\r\nabc\r\n", b"3 x\r\nabc\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"1" * 16 + b"\r\n", b"\r\n", b"3;" + b"e" * 2000 + b"\r\n", b"0\r\nno colon\r\n\r\n", b"0\r\nA: b\0\r\n\r\n",
    b"0\r\n folded\r\n\r\n",
    b"0\r\n" + b"A: b\r\n" * 2000, b"3;a\0b\r\nabc\r\n"])
def test_malformed_chunks_are_refused(data, step):
    with pytest.raises(BadRequest):
        decode(data + b"\r\n0\r\n\r\n", step)


def test_a_cut_body_is_not_complete():
    whole = b"5\r\nabcde\r\n0\r\n\r\n"
    assert not any(decode(whole[:cut])[2] for cut in range(len(whole)))

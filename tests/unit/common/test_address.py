"""HOST:PORT."""
from __future__ import annotations

import pytest

from common.address import Address, parse_address


@pytest.mark.parametrize(("text", "address", "is_loopback"), [
    ("127.0.0.1:8080", Address("127.0.0.1", 8080), True),
    ("[::1]:0", Address("::1", 0), True),
    ("localhost:1", Address("localhost", 1), True),
    (":8080", Address("", 8080), False),
    ("0.0.0.0:65535", Address("0.0.0.0", 65535), False),
    ("store.example:80", Address("store.example", 80), False),
])
def test_an_address_is_read_written_and_known_as_loopback_or_not(text, address, is_loopback):
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_loopback is is_loopback


@pytest.mark.parametrize("text", ["", "8080", "host", "host:", "host:x", "host:65536", "host:-1", "::1:80", "a b:80", "http://h:80"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets|host name"):
        parse_address(text)

"""Which door a request goes through."""
import pytest

from proxy.http.dispatch import RESERVED_FIRST_SEGMENTS, Api, choose_api
from proxy.http.message import Headers, parse_query


def choose(method="GET", path=b"/", fields=(), query=b"", domain=None):
    return choose_api(method, path, Headers(list(fields)), parse_query(query), s3_domain=domain)


@pytest.mark.parametrize("word", sorted(RESERVED_FIRST_SEGMENTS))
def test_a_reserved_first_segment_is_swift_with_and_without_more_behind_it(word):
    assert choose(path=f"/{word}".encode()) is Api.SWIFT
    assert choose(path=f"/{word}/x/y".encode()) is Api.SWIFT
    assert choose(path=f"/{word}x".encode()) is Api.S3


def test_a_percent_encoded_reserved_segment_is_still_reserved():
    assert choose(path=b"/%76%31/AUTH_a") is Api.SWIFT


@pytest.mark.parametrize("path", [b"/", b"/bucket", b"/bucket/v1/AUTH_x", b"/V1/x", b"//v1"])
def test_any_other_path_is_s3(path):
    assert choose(path=path) is Api.S3


@pytest.mark.parametrize("value", [b"AWS4-HMAC-SHA256 Credential=a/b", b"AWS key:signature"])
def test_a_signature_in_the_header_is_s3_even_on_a_reserved_path(value):
    assert choose(path=b"/v1/AUTH_a/c", fields=[(b"Authorization", value)]) is Api.S3


def test_other_authorization_is_not_s3():
    assert choose(path=b"/v1/AUTH_a/c", fields=[(b"Authorization", b"Bearer AWS x")]) is Api.SWIFT


@pytest.mark.parametrize("query", [b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k", b"AWSAccessKeyId=k&Signature=s"])
def test_a_signature_in_the_query_is_s3(query):
    assert choose(path=b"/v1/key", query=query) is Api.S3


def test_a_temp_url_is_swift():
    assert choose(path=b"/v1/AUTH_a/c/o", query=b"temp_url_sig=x&temp_url_expires=1&Signature=a") is Api.SWIFT


@pytest.mark.parametrize("host", [b"s3.example.org", b"b.s3.example.org:8080", b"B.S3.Example.ORG."])
def test_a_host_under_the_s3_domain_is_s3(host):
    assert choose(path=b"/v1/key", fields=[(b"Host", host)], domain="s3.example.org") is Api.S3


@pytest.mark.parametrize("host", [b"xs3.example.org", b"example.org", b"[::1]:8080"])
def test_a_host_beside_the_s3_domain_is_not(host):
    assert choose(path=b"/v1/key", fields=[(b"Host", host)], domain="s3.example.org") is Api.SWIFT

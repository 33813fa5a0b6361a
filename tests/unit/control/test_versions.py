"""Microversions, fields, discovery, times: pure."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clock import ManualClock
from common.errors import BadRequest, NotFound
from control.causes import Causes
from control.context import AccessRule
from control.discovery import ApiVersion, versions_document
from control.times import format_naive, format_optional, format_second, format_time, parse_time
from control.versions import Field, Version, VersionRange, parse_version, render_fields

RANGE = VersionRange(service_type="volume", lowest=Version(3, 0), highest=Version(3, 71))
FIELDS = (Field("id", lambda row: row["id"]), Field("locked", lambda row: True, since=Version(2, 9)),
          Field("flavor.id", lambda row: "f", until=Version(2, 46)), Field("both", lambda row: 1, since=Version(2, 3),
                                                                           until=Version(2, 3)))


def test_versions_are_ordered_by_number_not_by_text():
    assert parse_version("2.9") < parse_version("2.10") < parse_version("3.0") and str(parse_version("2.100")) == "2.100"


@pytest.mark.parametrize("text", ["", "2", "2.", ".1", "2.01", "02.1", "2.1.1", "latest", "-2.1", "2.1e3", "2.9999999", "٢.١"])
def test_what_is_no_version_is_400(text):
    with pytest.raises(BadRequest):
        parse_version(text)


@pytest.mark.parametrize(("version", "names"), [
    ("2.1", {"id", "flavor.id"}), ("2.3", {"id", "flavor.id", "both"}), ("2.9", {"id", "flavor.id", "locked"}),
    ("2.46", {"id", "flavor.id", "locked"}), ("2.47", {"id", "locked"})])
def test_an_answer_has_the_fields_of_its_version_and_no_other(version, names):
    assert set(render_fields(FIELDS, {"id": "x"}, parse_version(version))) == names


def test_discovery_says_what_clients_look_for():
    api = ApiVersion(id="v3.71", path="/v3/", updated="2026-01-01T00:00:00Z", microversions=RANGE,
                     media_types=({"base": "application/json"},))
    document = versions_document([api], "https://cloud.example.org/volume")
    (shown,) = document["versions"]
    assert shown["links"] == [{"rel": "self", "href": "https://cloud.example.org/volume/v3/"}]
    assert (shown["version"], shown["min_version"], shown["status"]) == ("3.71", "3.0", "CURRENT")
    assert versions_document([api], "x", has_values=True)["versions"]["values"][0]["media-types"] == [{"base": "application/json"}]


@given(st.integers(min_value=-10**15, max_value=10**17))
def test_times_go_out_and_come_back(us):
    assert parse_time(format_time(us), "x") == us and parse_time(format_naive(us), "x") == us
    assert parse_time(format_second(us), "x") == us - us % 1_000_000


@pytest.mark.parametrize(("text", "us"), [("1970-01-01T00:00:01Z", 1_000_000), ("1970-01-01 01:00:00+01:00", 0),
                                          ("1970-01-01T00:00:00.5", 500_000), ("1969-12-31T19:00:00-0500", 0)])
def test_times_in_other_forms_are_read(text, us):
    assert parse_time(text, "x") == us


@pytest.mark.parametrize("text", ["", "now", "1970-13-01T00:00:00Z", "1970-01-01", "9" * 100, 7, None, "1970-01-01T00:00:00Z;"])
def test_what_is_no_time_is_400_and_names_the_field(text):
    with pytest.raises(BadRequest, match="expires_at"):
        parse_time(text, "expires_at")
    assert format_optional(None) is None


@pytest.mark.parametrize(("path", "method", "is_allowed"), [
    ("/v3/users/x", "GET", True), ("/v3/users/x/y", "GET", False), ("/v3/users/", "GET", False), ("/v3/users/x", "PUT", False),
    ("/v3/usersx/x", "GET", False)])
def test_access_rules_match_whole_paths(path, method, is_allowed):
    rule = AccessRule(id="r", service="identity", path="/v3/users/*", method="GET")
    assert rule.matches("identity", method, path) is is_allowed and not rule.matches("compute", method, path)
    deep = AccessRule(id="r", service="identity", path="/v3/{x}/**", method="GET")
    assert deep.matches("identity", "GET", "/v3/users/x/y")


def test_failures_are_not_pushed_out_by_refusals_and_both_are_bounded():
    causes = Causes(ManualClock(), refusals_max=3, failures_max=2)

    def note(name, status):
        causes.note(name, service="identity", status=status, seconds=0.001, method="GET", path="/x" * 1_000, peer="p", user="u",
                    error=NotFound(reason="r").because("rule", fact="x" * 10_000), reason="r")

    note("bad", 500)
    for number in range(10):
        note(f"r{number}", 404)
    assert causes.find("bad") and causes.find("r9") and causes.find("r7") and causes.find("r6") is None
    assert len(str(causes.find("bad"))) < 3_000

"""Whatever a client calls things, an entry of the audit log is one line of plain ASCII that says it back."""
import json
from urllib.parse import quote

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.audit import Entry, format_entry, hide_secrets

TEXT = st.text(max_size=200)


@given(path=TEXT, user=TEXT, account=TEXT)
@example(path='/v1/a/c\n{"event": "forged"}', user="\r\n", account="\u2028\x1b[2J\x00")
@example(path="\ud800", user='"', account="\\")
def test_an_entry_is_one_line_and_its_names_come_back(path, user, account):
    line = format_entry(Entry(1_700_000_000_000_000, "object", "tx", "10.0.0.7", user, account, "swift", "PUT", path, 201))
    assert line.endswith("\n") and line[:-1].isascii() and line[:-1].isprintable()
    found = json.loads(line)
    assert [found.get(name, "") for name in ("path", "user", "account")] == [path, user, account]


@given(before=TEXT, secret=st.text(st.sampled_from("abcdefXYZ0123-_"), min_size=50, max_size=80), after=TEXT)
def test_a_token_is_hidden_wherever_it_stands(before, secret, after):
    token = f"AUTH_tk{secret}"
    for text in (f"/v1/{before}/{token}/{after}", quote(f"/v1/{before}/") + token + "/" + quote(after)):
        assert token not in hide_secrets(text)


@given(st.text(st.sampled_from("abcxyz0123456789-_%"), min_size=4, max_size=30), TEXT)
def test_what_a_request_brought_as_a_secret_is_in_no_text(secret, text):
    assert secret not in hide_secrets(f"{text}{secret}{text}", [secret])

"""The words of `holdfast up` and `down`."""
from __future__ import annotations

import pytest

from cli.up import announce, down, ready_message, up
from common.errors import ConfigError
from node.config import load_config

ENDPOINT = {"urls": {"swift": "http://h:1/v1", "auth": "http://h:1/auth/v1.0"},
            "demo": {"user": "demo:demo", "key": "k3y", "storage_url": "http://h:1/v1/AUTH_demo"}}


def message(endpoint, **overrides):
    return ready_message(endpoint, load_config(environ={"HOME": "/nowhere"}, overrides=overrides))


def test_the_ready_message_has_three_lines_to_copy():
    lines = [line.strip() for line in message(ENDPOINT, **{"node.data": "/s"}).splitlines()]
    (curl,), (swift,), (keys,) = ([line for line in lines if line.startswith(word)] for word in ("curl:", "swift:", "keys:"))
    assert curl.endswith("curl -K /s/demo.curl | curl -K - -i http://h:1/v1/AUTH_demo")
    assert swift.endswith(". /s/demo.env; swift stat")
    assert "/s/secrets" in keys and "README.md" in keys
    assert any("holdfast status --data /s" in line for line in lines)


def test_the_ready_message_shows_no_key():
    assert "k3y" not in message(ENDPOINT) + message({**ENDPOINT, "tls_cert": "/c.pem"})


def test_a_directory_with_blanks_can_be_copied_from_the_message():
    text = message(ENDPOINT, **{"node.data": "/a b"})
    assert "curl -K '/a b/demo.curl'" in text and ". '/a b/demo.env';" in text and "--data '/a b'" in text


def test_what_the_message_names_is_there(tmp_path):
    text = announce(ENDPOINT, load_config(environ={"HOME": "/nowhere"}, overrides={"node.data": str(tmp_path)}), pytest.fail)
    assert all(str(path) in text for path in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 2


def test_files_that_cannot_be_written_stop_no_node(tmp_path):
    (tmp_path / "file").touch()
    said = []
    loaded = load_config(environ={"HOME": "/nowhere"}, overrides={"node.data": str(tmp_path / "file/below")})
    assert "ready: http://h:1/v1" in announce(ENDPOINT, loaded, said.append)
    assert len(said) == 1 and "demo user's files" in said[0]


def test_without_a_demo_user_the_lines_name_the_configuration():
    text = message({"urls": ENDPOINT["urls"], "tls_cert": "/c.pem"})
    assert "ACCOUNT:USER" in text and "demo" not in text and "curl -i --cacert /c.pem http://h:1/info" in text


@pytest.mark.parametrize(("listen", "is_said"), [("127.0.0.1:1", False), ("10.0.0.1:1", True), (":1", True)])
def test_a_public_listener_without_tls_is_told_that_logins_are_refused(listen, is_said):
    assert ("logins are refused" in message(ENDPOINT, **{"node.listen": listen})) is is_said
    assert "logins" not in message(ENDPOINT, **{"node.listen": listen, "tls.insecure_http": True})


def test_down_where_nothing_runs_says_so(tmp_path, capsys):
    assert down(["--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"nothing runs in {tmp_path}\n"


def test_a_bad_address_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError):
        up(["--data", str(tmp_path / "s"), "--listen", "nonsense"])
    assert not (tmp_path / "s").exists()

"""A mistake in a policy file is found by `config check` and told by `up`, with its line."""
from __future__ import annotations

import pytest

from cli.main import main
from node.policy_check import find_mistake


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holdfast.toml").write_text(f'[node]\ndata = "{tmp_path}"\n')
    (tmp_path / "policy").mkdir()
    return tmp_path


def test_a_mistake_is_named_with_file_and_line(root, capsys):
    (root / "policy/identity.yaml").write_text("# mine\nidentity:list_userss: '!'\n")
    sentence = f"{root}/policy/identity.yaml:2: there is no operation 'identity:list_userss'"
    assert find_mistake(root).startswith(sentence)
    assert main(["config", "check"]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "identity:list_users: '!'\n"])
def test_no_file_and_a_good_one_are_good(root, text):
    if text is not None:
        (root / "policy/identity.yaml").write_text(text)
    assert find_mistake(root) == "" and main(["config", "check"]) == 0


def test_an_account_that_would_be_the_default_domain_is_refused_unless_there_is_no_identity(root, capsys):
    rows = '[[auth.user]]\naccount = "default"\nuser = "bob"\nkey_file = "k"\n'
    config = root / "holdfast.toml"
    config.write_text(rows)
    assert main(["config", "check"]) == 1
    told = capsys.readouterr().err
    assert "holdfast.toml:2" in told and "default domain" in told and 'identity.listen = ""' in told
    config.write_text(f'[identity]\nlisten = ""\n[node]\ndata = "{root}"\n{rows}')
    assert main(["config", "check"]) == 0

"""The `holdfast` command: what it says, and its exit codes."""
from __future__ import annotations

import json

import pytest

from cli import config_cmd
from cli import main as cli_main
from common.secrets import verify_key
from common.version import VERSION


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)


def test_help_names_every_command_and_fits_a_terminal(capsys):
    assert cli_main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command.name}" in text for command in cli_main.COMMANDS)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_without_a_command_it_teaches(capsys):
    assert cli_main.main([]) == 0
    assert "Examples:" in capsys.readouterr().out


def test_a_misspelt_command_gets_a_hint_and_exit_code_2(capsys):
    assert cli_main.main(["statsu"]) == 2
    assert "did you mean 'status'?" in capsys.readouterr().err


def test_the_version_is_the_one_of_the_package(capsys):
    assert cli_main.main(["version"]) == 0
    assert capsys.readouterr().out == f"holdfast {VERSION}\n"


def test_a_good_configuration_is_called_good(tmp_path, capsys):
    (tmp_path / "holdfast.toml").write_text("[node]\nworkers = 2\n")
    assert cli_main.main(["config", "check"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/holdfast.toml: good\n"


def test_a_wrong_configuration_exits_1_and_names_each_line(tmp_path, capsys):
    (tmp_path / "holdfast.toml").write_text("[node]\nworkres = 2\n[log]\nlevel = 'loud'\n")
    assert cli_main.main(["config", "check"]) == 1
    text = capsys.readouterr().err
    assert "holdfast.toml:2: unknown key 'workres'" in text and "holdfast.toml:4: log.level must be one of" in text


def test_show_says_where_each_value_comes_from(tmp_path, capsys, monkeypatch):
    path = tmp_path / "x.toml"
    path.write_text("[node]\nworkers = 2\n")
    monkeypatch.setenv("HOLDFAST_LOG_LEVEL", "debug")
    assert cli_main.main(["config", "show", "--json", "--config", str(path)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["node.workers"] == {"value": 2, "origin": f"{path}:2"}
    assert values["log.level"] == {"value": "debug", "origin": "environment HOLDFAST_LOG_LEVEL"}
    assert values["node.devices"]["origin"] == "default"


def test_a_key_is_hashed_from_standard_input(capsys, monkeypatch, tmp_path):
    (tmp_path / "key").write_text("testing\n")
    with (tmp_path / "key").open() as stdin:
        monkeypatch.setattr(config_cmd.sys, "stdin", stdin)
        assert cli_main.main(["config", "hash-key"]) == 0
    assert verify_key("testing", capsys.readouterr().out.strip())

"""Completion knows what the parsers know, and each script is read by its shell, if that is here."""
import argparse
import shutil
import subprocess

import pytest

from cli.completion import PLACES, Node, make_completion, read_commands, take_parser
from cli.main import COMMANDS, Command


def complete(*words):
    """What bash offers for the last of `words`."""
    script = f'{make_completion("bash")}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _holdfast; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_every_command_is_offered():
    assert {command.name for command in COMMANDS} <= complete("holdfast", "")


@pytest.mark.parametrize(("words", "offered"), [
    (("up", "--"), {"--data", "--listen", "--detach"}), (("config", ""), {"show", "check", "sample", "hash-key"}),
    (("config", "show", "--"), {"--json", "--config"}), (("completion", ""), {"bash", "zsh", "fish"}),
    (("usage", "--fr"), {"--from"}), (("uninstall", "--p"), {"--purge"}), (("test", ""), {"all"}),
])
def test_what_may_follow_is_offered(words, offered):
    assert offered <= complete("holdfast", *words)


def test_the_value_of_an_option_is_a_file_or_one_of_its_choices(tmp_path):
    (tmp_path / "store").mkdir()
    assert complete("holdfast", "up", "--data", f"{tmp_path}/st") == {f"{tmp_path}/store"}
    assert complete("holdfast", "usage", "--day", "") == set()


def test_options_of_another_command_are_not_offered():
    assert "--purge" not in complete("holdfast", "up", "--")


@pytest.mark.parametrize("shell", sorted(PLACES))
def test_each_script_names_every_command_and_is_read_by_its_shell(shell):
    script = make_completion(shell)
    assert all(command.name in script for command in COMMANDS)
    if shutil.which(shell) is not None:
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_parses_is_known_with_all_its_options():
    nodes = {node.name: node for node in read_commands()}
    words = {word for option in nodes["up"].options for word in option.words}
    parser = take_parser(next(command for command in COMMANDS if command.name == "up"))
    assert words == {word for action in parser._actions for word in action.option_strings} and len(words) > 6
    assert isinstance(nodes["config"].verbs[0], Node)


def test_taking_a_parser_runs_no_command_and_leaves_argparse_as_it_was():
    before = argparse.ArgumentParser.parse_known_args
    assert take_parser(Command(group="", name="version", arguments="", summary="", module="cli.main", function="version")) is None
    assert argparse.ArgumentParser.parse_known_args is before

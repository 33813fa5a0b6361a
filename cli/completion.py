"""`holdfast completion bash|zsh|fish`: a script that completes commands, options and their values.

Made from the parsers that the commands themselves use: each is asked for its help, and its parser is taken before it answers.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

from cli.main import COMMANDS, Command
from common.errors import StorageError

PLACES = {
    "bash": Path("/usr/local/share/bash-completion/completions/holdfast"),
    "zsh": Path("/usr/local/share/zsh/site-functions/_holdfast"),
    "fish": Path("/usr/local/share/fish/vendor_completions.d/holdfast.fish"),
}
_FILES = frozenset(("FILE", "DIR", "PATH"))
_ABOUT = """\
Print a completion script for a shell. `holdfast install` puts all three where the shells look; for a checkout:

  bash   eval "$(holdfast completion bash)"
  zsh    holdfast completion zsh > "${fpath[1]}/_holdfast"
  fish   holdfast completion fish > ~/.config/fish/completions/holdfast.fish"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. words: all its spellings; choices: of its value; takes: the name of its value, "" for none."""

    words: tuple[str, ...]
    summary: str
    takes: str
    choices: tuple[str, ...]

    @property
    def is_file(self) -> bool:
        return self.takes in _FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A command, or a verb of one. is_file: its arguments are paths."""

    name: str
    summary: str
    options: tuple[Option, ...]
    verbs: tuple[Node, ...]
    is_file: bool


class _Taken(BaseException):
    """Carries a parser out of a command; no `Exception`, so that no command can answer it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def completion(argv: list[str]) -> int:
    """Print a script."""
    parser = argparse.ArgumentParser(prog="holdfast completion", description=_ABOUT,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shell", choices=sorted(PLACES), help="whose script")
    print(make_completion(parser.parse_args(argv).shell), end="")
    return 0


def make_completion(shell: str) -> str:
    """The script for one of `PLACES`."""
    makers: dict[str, Callable[[Sequence[Node]], str]] = {"bash": _make_bash, "zsh": _make_zsh, "fish": _make_fish}
    return makers[shell](read_commands())


def read_commands() -> tuple[Node, ...]:
    """All commands with what their parsers know."""
    return tuple(_read_command(command) for command in COMMANDS)


def _read_command(command: Command) -> Node:
    parser = take_parser(command)
    if parser is None:                           # it reads its words itself: what its summary line says
        words = [word for word in command.arguments.replace("[", " ").replace("]", " ").replace("|", " ").split() if word.islower()]
        verbs = tuple(Node(name=word, summary="", options=(), verbs=(), is_file=False) for word in words if word.isalpha())
        return Node(name=command.name, summary=command.summary, options=(), verbs=verbs, is_file=False)
    return _read_parser(parser, command.name, command.summary)


def take_parser(command: Command) -> argparse.ArgumentParser | None:
    """The parser that a command would read its arguments with, None if it has none."""
    def take(self: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise _Taken(self)

    run = getattr(importlib.import_module(command.module), command.function)
    with patch.object(argparse.ArgumentParser, "parse_known_args", take), contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()):
        try:
            run(["--help"])
        except _Taken as taken:
            return taken.parser
        except (StorageError, SystemExit):
            pass
    return None


def _read_parser(parser: argparse.ArgumentParser, name: str, summary: str) -> Node:
    options: list[Option] = []
    verbs: list[Node] = []
    is_file = False
    for action in parser._actions:               # argparse has no public way to list what a parser knows
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            verbs += [_read_parser(sub, verb, _plain(summaries.get(verb, ""))) for verb, sub in action.choices.items()]
        elif action.option_strings:
            takes = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
            options.append(Option(words=tuple(action.option_strings), summary=_plain(action.help or ""), takes=takes,
                                  choices=_choices(action.choices)))
        elif action.choices:
            verbs += [Node(name=word, summary="", options=(), verbs=(), is_file=False) for word in _choices(action.choices)]
        else:
            is_file = is_file or str(action.metavar or action.dest).upper() in _FILES
    return Node(name=name, summary=_plain(summary), options=tuple(options), verbs=tuple(verbs), is_file=is_file)


def _choices(choices: Iterable[object] | None) -> tuple[str, ...]:
    return tuple(str(choice) for choice in choices or ())


def _plain(text: str) -> str:
    """A summary in one line without what shells read."""
    return re.sub(r"[\s]+", " ", text.replace("%%", "%")).replace("`", "").replace("'", "").replace('"', "").replace("\\", "")


def _paths(nodes: Iterable[Node]) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Each command and verb with the words that lead to it."""
    for node in nodes:
        yield (node.name,), node
        for words, verb in _paths(node.verbs):
            yield (node.name, *words), verb


def _make_bash(nodes: Sequence[Node]) -> str:
    words = " ".join(node.name for node in nodes)
    cases, values = [], []
    for path, node in _paths(nodes):
        known = [word for option in node.options for word in option.words] + [verb.name for verb in node.verbs]
        cases.append(f"        {shlex.quote(' '.join(path))}) words={shlex.quote(' '.join(known))}; files={int(node.is_file)} ;;")
        for option in node.options:
            if option.takes:
                for word in option.words:
                    name, choices = shlex.quote(" ".join((*path, word))), shlex.quote(" ".join(option.choices))
                    values.append(f"        {name}) values={choices}; files={int(option.is_file)}; takes=1 ;;")
    return f"""\
# bash completion of holdfast; made by `holdfast completion bash`
_holdfast() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} path= words= values= files=0 takes=0 word
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        _holdfast_known "${{path:+$path }}$word" && path="${{path:+$path }}$word"
    done
    if [ -z "$path" ]; then
        COMPREPLY=($(compgen -W {shlex.quote(words + ' --help --version')} -- "$cur")); return
    fi
    case "$path $prev" in
{chr(10).join(values)}
    esac
    if [ "$takes" = 1 ]; then
        if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$cur"))
        elif [ "$files" = 1 ]; then compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); fi
        return
    fi
    case "$path" in
{chr(10).join(cases)}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if [ "$files" = 1 ] && [ "${{cur#-}}" = "$cur" ]; then
        compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$cur"))
    fi
}}
_holdfast_known() {{
    case "$1" in
        {'|'.join(shlex.quote(' '.join(path)) for path, _ in _paths(nodes))}) return 0 ;;
    esac
    return 1
}}
complete -F _holdfast holdfast ./holdfast
"""


def _make_zsh(nodes: Sequence[Node]) -> str:
    commands = "\n".join(f"        {shlex.quote(f'{_colon(node.name)}:{node.summary}')}" for node in nodes)
    cases = "\n".join(f"        {node.name}) {_zsh_arguments(node)} ;;" for node in nodes)
    return f"""\
#compdef holdfast
# zsh completion of holdfast; made by `holdfast completion zsh`
_holdfast() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe -t commands 'command' commands
        return
    fi
    local name=$words[2]
    shift words
    (( CURRENT-- ))
    case $name in
{cases}
    esac
}}
_holdfast "$@"
"""


def _zsh_arguments(node: Node) -> str:
    out = ["_arguments"]
    for option in (*node.options, *(option for verb in node.verbs for option in verb.options)):
        for word in option.words:
            value = ""
            if option.choices:
                value = f":{option.takes}:({' '.join(option.choices)})"
            elif option.takes:
                value = f":{option.takes}:{'_files' if option.is_file else ' '}"
            spec = shlex.quote(f"{word}[{_brackets(option.summary)}]{value}")
            if spec not in out:
                out.append(spec)
    if node.verbs:
        out.append(shlex.quote(f"1:verb:({' '.join(verb.name for verb in node.verbs)})"))
    out.append(shlex.quote("*:file:_files" if node.is_file else "*: : "))
    return " ".join(out)


def _make_fish(nodes: Sequence[Node]) -> str:
    out = ["# fish completion of holdfast; made by `holdfast completion fish`", "complete -c holdfast -f"]
    for node in nodes:
        out.append(f"complete -c holdfast -n __fish_use_subcommand -a {shlex.quote(node.name)} -d {shlex.quote(node.summary)}")
        seen = shlex.quote(f"__fish_seen_subcommand_from {node.name}")
        out += [f"complete -c holdfast -n {seen} -a {shlex.quote(verb.name)} -d {shlex.quote(verb.summary)}" for verb in node.verbs]
        if node.is_file:
            out.append(f"complete -c holdfast -n {seen} -F")
        for option in (*node.options, *(option for verb in node.verbs for option in verb.options)):
            line = f"complete -c holdfast -n {seen} {_fish_option(option)} -d {shlex.quote(option.summary)}"
            if line not in out:
                out.append(line)
    return "\n".join(out) + "\n"


def _fish_option(option: Option) -> str:
    out = [f"-l {shlex.quote(word[2:])}" if word.startswith("--") else f"-s {word[1:]}" for word in option.words]
    if option.choices:
        out.append(f"-x -a {shlex.quote(' '.join(option.choices))}")
    elif option.takes:
        out.append("-r -F" if option.is_file else "-x")
    return " ".join(out)


def _colon(text: str) -> str:
    return text.replace(":", "\\:")


def _brackets(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", "\\:")

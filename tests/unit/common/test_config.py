"""Typed configuration: sources, mistakes and where they point."""
from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.config import build_config, count_settings, required, setting, table
from common.config_text import effective_values, format_values, make_sample
from common.configfile import NO_FILE, find_config_path, load_config_file, parse_config_text
from common.errors import ConfigError
from node.config import HoldfastConfig, load_config

FILE = Path("h.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str = required("its name")
    size: int = setting(1, "its size", low=1, high=9)
    secret: str | None = setting(None, "hush", is_secret=True, needs_private_file=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    count: int = setting(3, "how many", low=1, high=10)
    ratio: float = setting(0.5, "how much", low=0, high=1)
    is_on: bool = setting(False, "whether")
    mode: str = setting("fast", "which way", choices=("fast", "slow"))
    names: tuple[str, ...] = setting((), "who")
    path: str | None = setting(None, "where")
    row: tuple[Row, ...] = setting((), "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    inner: Inner = table(Inner, "The inner table.")


def build(text: str, **given: object):
    return build_config(Root, parse_config_text(text, path=FILE, is_private=bool(given.pop("is_private", True))), **given)


def problem_of(text: str, **given: object) -> str:
    with pytest.raises(ConfigError) as caught:
        build(text, **given)
    return f"{caught.value.fields['where']}: {caught.value.fields['reason']}"


def test_without_any_source_every_setting_has_its_default():
    loaded = build_config(Root)
    assert loaded.value == Root()
    assert set(loaded.origins.values()) == {"default"}


def test_values_come_from_command_line_then_environment_then_file_then_default():
    text = "[inner]\ncount = 4\nratio = 0.25\nis_on = true\n"
    environ = {"HOLDFAST_INNER_COUNT": "5", "HOLDFAST_INNER_RATIO": "1"}
    loaded = build(text, environ=environ, overrides={"inner.count": 6, "inner.mode": None})
    inner = loaded.value.inner
    assert (inner.count, inner.ratio, inner.is_on, inner.mode) == (6, 1.0, True, "fast")
    assert loaded.origins["inner.count"] == "command line"
    assert loaded.origins["inner.ratio"] == "environment HOLDFAST_INNER_RATIO"
    assert loaded.origins["inner.is_on"] == "h.toml:4"
    assert loaded.origins["inner.mode"] == "default"


@pytest.mark.parametrize(("text", "expected"), [
    ("[inner]\ncuont = 4\n", "h.toml:2: unknown key 'cuont' in [inner]: did you mean 'count'?"),
    ("\n[iner]\ncount = 4\n", "h.toml:2: unknown key 'iner' at the top level: did you mean 'inner'?"),
    ("[inner]\nzzz = 4\n", "h.toml:2: unknown key 'zzz' in [inner]"),
    ("[inner]\ncount = '4'\n", "h.toml:2: inner.count must be a whole number, not '4'"),
    ("[inner]\ncount = true\n", "h.toml:2: inner.count must be a whole number, not True"),
    ("[inner]\ncount = 4.0\n", "h.toml:2: inner.count must be a whole number, not 4.0"),
    ("[inner]\ncount = 0\n", "h.toml:2: inner.count must be at least 1, not 0"),
    ("[inner]\ncount = 11\n", "h.toml:2: inner.count must be at most 10, not 11"),
    ("[inner]\nratio = nan\n", "h.toml:2: inner.ratio must be finite, not nan"),
    ("[inner]\nis_on = 1\n", "h.toml:2: inner.is_on must be true or false, not 1"),
    ("[inner]\nmode = 'slw'\n", "h.toml:2: inner.mode must be one of fast, slow, not 'slw': did you mean 'slow'?"),
    ("[inner]\nnames = ['a', 1]\n", "h.toml:2: inner.names must be a list of strings, not ['a', 1]"),
    ("inner = 3\n", "h.toml:1: inner must be a table, as in [inner]"),
    ("[inner]\nrow = 3\n", "h.toml:2: inner.row is a list of rows: write [[inner.row]]"),
    ("[inner]\n[[inner.row]]\nsize = 2\n", "h.toml:2: inner.row.0: name is missing (its name)"),
    ("[inner]\n[[inner.row]]\nname='a'\n\n[[inner.row]]\nname = 'b'\nsise = 3\n",
     "h.toml:7: unknown key 'sise' in [inner.row]: did you mean 'size'?"),
    ("[inner]\nrow = [{name = 'a', size = 99}]\n", "h.toml:2: inner.row.0.size must be at most 9, not 99"),
])
def test_a_mistake_in_the_file_is_refused_with_its_line_and_a_hint(text, expected):
    assert problem_of(text) == expected


def test_text_that_is_no_toml_is_refused_with_its_line():
    with pytest.raises(ConfigError) as caught:
        build("[inner]\ncount = \n")
    assert caught.value.fields["where"] == "h.toml:2"


def test_all_problems_of_a_file_are_shown_at_once():
    with pytest.raises(ConfigError) as caught:
        build("[inner]\ncount = 0\nratio = 7\nnope = 1\n")
    assert len(caught.value.fields["problems"]) == 3


def test_a_value_of_the_environment_is_checked_like_one_of_the_file():
    assert problem_of("", environ={"HOLDFAST_INNER_COUNT": "many"}) == (
        "environment HOLDFAST_INNER_COUNT: inner.count must be a whole number, not 'many'")


def test_a_misspelt_variable_is_refused_and_foreign_ones_are_not():
    environ = {"HOLDFAST_TEST_ALL": "1", "HOLDFAST_CONFIG": "x", "HOME": "/root"}
    assert build("", environ=environ).value == Root()
    assert "did you mean 'HOLDFAST_INNER_COUNT'" in problem_of("", environ={"HOLDFAST_INNER_COUNTT": "1"})


def test_a_misspelt_override_is_refused():
    assert problem_of("", overrides={"inner.cont": 1}) == "command line: no such setting 'inner.cont': did you mean 'inner.count'?"


def test_lists_and_switches_can_be_given_as_text():
    inner = build("", environ={"HOLDFAST_INNER_NAMES": "a, b,", "HOLDFAST_INNER_IS_ON": "yes"}).value.inner
    assert (inner.names, inner.is_on) == (("a", "b"), True)


def test_a_plain_secret_is_accepted_only_from_a_private_file(tmp_path):
    path = tmp_path / "h.toml"
    path.write_text("[[inner.row]]\nname = 'a'\nsecret = 's'\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        build_config(Root, load_config_file(path))
    path.chmod(0o600)
    assert build_config(Root, load_config_file(path)).value.inner.row[0].secret == "s"


def test_lines_are_right_behind_values_of_many_lines_and_text_that_looks_like_keys():
    text = '[inner]\nnames = [\n  "count = 1", # ]\n  "[x]",\n]\npath = """\ncount = 7\n[inner]\n"""\n# count = 3\ncount = 99\n'
    assert problem_of(text) == "h.toml:11: inner.count must be at most 10, not 99"


def test_lines_of_dotted_and_quoted_keys_are_found():
    assert problem_of('\ninner."count" = 99\n').startswith("h.toml:2:")


def test_the_first_existing_place_is_used_and_a_named_file_has_to_exist(tmp_path):
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    in_home = home / ".config/holdfast/holdfast.toml"
    in_home.parent.mkdir(parents=True)
    cwd.mkdir()
    environ = {"HOME": str(home)}
    in_home.touch()
    assert find_config_path(None, environ, cwd=cwd) == in_home
    (cwd / "holdfast.toml").touch()
    assert find_config_path(None, environ, cwd=cwd) == cwd / "holdfast.toml"
    named = tmp_path / "x.toml"
    with pytest.raises(ConfigError, match="HOLDFAST_CONFIG"):
        find_config_path(None, {**environ, "HOLDFAST_CONFIG": str(named)}, cwd=cwd)
    with pytest.raises(ConfigError, match="--config"):
        find_config_path(named, environ, cwd=cwd)
    named.touch()
    assert find_config_path(None, {**environ, "HOLDFAST_CONFIG": str(named)}, cwd=cwd) == named


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "h.toml"
    path.write_bytes(b"[inner]\nmode = '\xff'\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config_file(path)


def test_secrets_are_never_shown():
    shown = format_values(effective_values(build("[[inner.row]]\nname = 'a'\nsecret = 'hush-hush'\n")))
    assert "hush-hush" not in shown
    assert "inner.row.0.secret = \"(hidden)\"" in shown


def test_the_sample_changes_nothing_as_it_is():
    sample = make_sample(HoldfastConfig, title="sample")
    assert build_config(HoldfastConfig, parse_config_text(sample, path=FILE)).value == HoldfastConfig()


def test_the_settings_of_the_sample_are_the_defaults():
    lines = make_sample(HoldfastConfig, title="sample").splitlines()
    live = [re.sub(r"^# (\w+ = )", r"\1", line) for line in lines if not re.match(r"# \w+ = .*(\[\[|\.\.\.)", line)]
    text, is_row = [], False
    for line in live:
        is_row = line.startswith("# [[") or (is_row and not line.startswith("["))
        unset = re.match(r"(id|hash_prefix|hash_suffix|seeds|data|rpc_listen|cert|key|file|public_url|database) =", line)
        text.append("" if is_row or unset else line)
    assert build_config(HoldfastConfig, parse_config_text("\n".join(text), path=FILE)).value == HoldfastConfig()
    assert sum(" = " in line and not line.startswith("#") for line in text) > 25


def test_the_sample_in_docs_is_the_generated_one():
    from cli.config_cmd import SAMPLE_PATH, sample_text

    assert SAMPLE_PATH.read_text() == sample_text(), "run: ./holdfast config sample > docs/config.sample.toml"


def test_the_whole_file_has_at_most_fifty_settings():
    assert count_settings(HoldfastConfig) <= 50


def test_every_setting_says_what_it_means():
    def check(kind: type) -> None:
        for item in dataclasses.fields(kind):
            assert item.metadata["rule"].doc, f"{kind.__name__}.{item.name}"
    from common import cluster_config, log
    from node import config as node_config
    from object import config as object_config
    from proxy import config as proxy_config
    for module in (cluster_config, log, node_config, object_config, proxy_config):
        for kind in vars(module).values():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__name__.endswith(("Config", "Row")):
                check(kind)


def load(tmp_path: Path, text: str) -> HoldfastConfig:
    path = tmp_path / "holdfast.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load_config(path, {}).value


def test_defaults_form_a_cluster_of_one_node_with_one_policy_of_three_replicas():
    config = build_config(HoldfastConfig, NO_FILE).value
    assert [(p.name, p.replicas, p.is_default) for p in config.policies] == [("standard", 3, True)]
    assert config.node.devices == 3
    assert config.listen.is_loopback


USER = "[[auth.user]]\naccount = 'a'\nuser = 'u'\n"


@pytest.mark.parametrize(("text", "expected"), [
    ("[tls]\ncert = 'x'\n", "holdfast.toml:2: tls.key is missing"),
    ("[node]\nlisten = 'nowhere'\n", "holdfast.toml:2: node.listen 'nowhere' is not HOST:PORT"),
    ("[node]\nadmin_listen = '127.0.0.1:8080'\n", "holdfast.toml:2: node.admin_listen and node.listen are both"),
    ("[cluster]\nhash_prefix = 'x'\n", "holdfast.toml:2: cluster.hash_prefix and cluster.hash_suffix belong together"),
    ("[object]\nsegment_bytes = 5000000\n", "holdfast.toml:2: object.segment_bytes must be a multiple of 4096"),
    (USER, "holdfast.toml:2: user a:u needs one of key_file, key_hash, key; it has none"),
    (USER + "key = 'x'\nkey_hash = 'scrypt$'\n",
     "holdfast.toml:2: user a:u needs one of key_file, key_hash, key; it has key_hash and key"),
    (USER + "key_file = '../x'\n", "holdfast.toml:4: auth.user.key_file '../x' is a name"),
    (USER + "key = 'x'\ngroups = ['*']\n", "holdfast.toml:5: auth.user.groups '*' must not"),
    (USER + "key = 'x'\ngroups = ['.admin', 'a, b']\n", "holdfast.toml:5: auth.user.groups 'a, b' must not"),
    (USER + "key = 'x'\n" + USER + "key = 'x'\n", "holdfast.toml:6: user a:u is there twice"),
    ("[[policy]]\nname = 'a'\n[[policy]]\nname = 'A'\n", "holdfast.toml:4: two policies are named 'A'"),
    ("[[policy]]\nname = 'a'\nindex = 1\n[[policy]]\nname = 'b'\n", "holdfast.toml:4: two policies have index 1"),
    ("[[policy]]\nname = 'a b'\n", "holdfast.toml:2: policy.name 'a b' may hold"),
    ("[auth]\nreseller = []\n", "holdfast.toml:2: at least one reseller prefix"),
])
def test_values_that_cannot_be_are_refused_with_their_line(tmp_path, text, expected):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert f"{caught.value.fields['where']}: {caught.value.fields['reason']}".startswith(f"{tmp_path}/{expected}")


def test_rows_of_users_and_policies_are_read(tmp_path):
    config = load(tmp_path, USER + "key = 'x'\ngroups = ['.admin']\n[[policy]]\nname = 'two'\nreplicas = 2\nindex = 7\n")
    assert config.auth.user[0].groups == (".admin",)
    assert [(p.index, p.name, p.is_default) for p in config.policies] == [(7, "two", True)]


@pytest.mark.parametrize(("text", "is_refused"), [
    ("", False),
    ("[node]\nlisten = '0.0.0.0:8080'\n", True),
    ("[node]\nlisten = ':8080'\n", True),
    ("[node]\nlisten = '[::1]:8080'\n", False),
    ("[node]\nlisten = '0.0.0.0:8080'\n[tls]\ninsecure_http = true\n", False),
    ("[node]\nlisten = '0.0.0.0:8080'\n[tls]\ncert = 'c'\nkey = 'k'\n", False),
])
def test_logins_over_clear_http_are_refused_on_a_public_listener(tmp_path, text, is_refused):
    assert load(tmp_path, text).is_login_refused is is_refused


def test_the_fingerprint_changes_with_whatever_decides_placement_and_with_nothing_else():
    from common.cluster_config import Policy, placement_fingerprint

    policy = Policy(index=0, name="a", replicas=3, is_default=True, sync="batch")
    facts = {"cluster_id": "c", "hash_prefix": b"p", "hash_suffix": b"s", "policies": (policy,)}
    fewer, more = dataclasses.replace(policy, replicas=2), dataclasses.replace(policy, index=1)
    changes = ({}, {"cluster_id": "d"}, {"hash_prefix": b"ps", "hash_suffix": b""}, {"policies": (fewer,)},
               {"policies": (policy, more)})
    prints = [placement_fingerprint(**{**facts, **change}) for change in changes]
    assert len(set(prints)) == len(prints)
    assert placement_fingerprint(**{**facts, "policies": (dataclasses.replace(policy, sync="interval"),)}) == prints[0]


def test_a_file_of_the_machine_that_this_user_may_not_read_is_not_ours(tmp_path, monkeypatch):
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    in_home = home / ".config/holdfast/holdfast.toml"
    in_home.parent.mkdir(parents=True)
    cwd.mkdir()
    in_home.touch()
    theirs = cwd / "holdfast.toml"
    theirs.touch()
    monkeypatch.setattr("os.access", lambda path, mode: path != theirs)
    assert find_config_path(None, {"HOME": str(home)}, cwd=cwd) == in_home

    def refuse(self):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.is_file", refuse)           # a directory on the way is closed
    assert find_config_path(None, {"HOME": str(home)}, cwd=cwd) is None
    with pytest.raises(ConfigError, match="may not read"):
        find_config_path(theirs, {}, cwd=cwd)

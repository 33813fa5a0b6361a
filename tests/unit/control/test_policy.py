"""Policy expressions: what they mean, and which ones stop a start."""
from __future__ import annotations

import pytest

from common.errors import ConfigError
from control.context import Context
from control.policy import Policy, PolicySyntaxError, parse_expression
from control.policy_file import load_overrides, load_policy

ALICE = Context(user_id="alice", project_id="p1", roles=frozenset({"member", "reader"})).credentials
ADMIN = Context(user_id="root", is_system=True, roles=frozenset({"admin", "member", "reader"})).credentials
CONFINED = Context(user_id="c", project_id="p1", roles=frozenset({"admin"}), is_admin_project=False).credentials
TARGET = {"user_id": "alice", "project_id": "p1", "target.role.name": "member", "nothing": None, "number": 7}


@pytest.mark.parametrize(("text", "is_allowed"), [
    ("", True), ("@", True), ("!", False), ("role:member", True), ("role:MEMBER", True), ("role:admin", False),
    ("user_id:%(user_id)s", True), ("user_id:bob", False), ("project_id:%(project_id)s and role:member", True),
    ("role:admin or role:reader", True), ("not role:admin", True), ("not role:member", False), ("not not role:member", True),
    ("(role:admin or role:member) and user_id:alice", True), ("role:admin or role:member and user_id:bob", False),
    ("'member':%(target.role.name)s", True), ("\"member\":%(target.role.name)s", True), ("'admin':%(target.role.name)s", False),
    ("None:%(nothing)s", True), ("'None':%(nothing)s", True), ("7:%(number)s", True), ("user_id:%(missing)s", False),
    ("missing:alice", False), ("missing:%(missing)s", False), ("domain_id:None", False), ("domain_id:%(nothing)s", False),
    ("roles:member", True), ("role:%(target.role.name)s", True), ("role:%(missing)s", False), ("system_scope:all", False),
    ("ROLE:x OR role:member", True), ("user_id:pre-%(user_id)s", False), ("'x-alice':x-%(user_id)s", True),
    ("rule:x or role:member", True)])
def test_an_expression_means_what_operators_expect(text, is_allowed):
    assert parse_expression(text, {"x": lambda *_: False})(ALICE, TARGET) is is_allowed


@pytest.mark.parametrize("text", ["role", ":", "role:", ":x", "(role:a", "role:a)", "()", "role:a role:b", "and", "role:a and",
                                  "not",
                                  "or role:a", "role:a or or role:b", "http://x/%(a)s", "https:x", "(" * 60 + "role:a" + ")" * 60,
                                  "role:a and " * 2_000 + "role:a", "'unclosed:x", "not " * 100 + "role:a"])
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(PolicySyntaxError):
        parse_expression(text)


def test_an_administrator_of_a_confined_project_is_none():
    policy = Policy({})
    assert policy.allows("admin_required", ADMIN, {}) and not policy.allows("admin_required", CONFINED, {})
    assert not policy.allows("admin_required", ALICE, {})


@pytest.mark.parametrize("rules", [{"a": "rule:a"}, {"a": "rule:b", "b": "not rule:c", "c": "role:x or rule:a"},
                                   {"a": "rule:nowhere"},
                                   {"a": "role:"}])
def test_circles_dangling_names_and_bad_syntax_stop_the_start(rules):
    with pytest.raises(ConfigError):
        Policy(rules)


def test_an_operators_file_replaces_rules_and_may_add_helpers(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text('"identity:list_users": "rule:auditors or rule:admin_required"\nauditors: "role:auditor"\n')
    policy = Policy({"identity:list_users": "!"}, load_overrides(path, {"identity:list_users"}))
    auditor = Context(user_id="a", roles=frozenset({"auditor"})).credentials
    assert policy.allows("identity:list_users", auditor, {}) and not policy.allows("identity:list_users", ALICE, {})


@pytest.mark.parametrize("text", ["[1]", "a: 1", "a: [x]", "'identity:list_usres': '@'", "a: b: c", "\x00", "- x"])
def test_a_file_that_says_something_else_is_refused(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_overrides(path, {"identity:list_users"})
    with pytest.raises(ConfigError):
        load_overrides(tmp_path / "missing.yaml", ())


@pytest.mark.parametrize(("text", "line", "words"), [
    ("# ours\nidentity:list_users: '!'\nidentity:list_user: '!'\n", 3, "did you mean 'identity:list_users'"),
    ("a: '!'\nidentity:list_users: 'role:admin and'\n", 2, "identity:list_users"),
    ("a: 'rule:b'\nb: 'rule:a'\n", 1, "refers to itself"), ("\nidentity:list_users: 'rule:nobody'\n", 2, "no rule 'nobody'"),
    ("a: '!'\nb: [1\n", 3, "no YAML"), ("a: '!'\n7: '!'\n", 2, "strings"), ("a: '!'\nb: {c: d}\n", 2, "strings"),
    ("a: '!'\n\tb: '!'\n", 2, "no YAML"), ("a: !!python/object:x {}\n", 1, "no YAML")])
def test_a_mistake_of_the_policy_file_is_named_with_its_line(tmp_path, text, line, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path / "p.yaml", {"identity:list_users": "!"})
    assert caught.value.fields["where"] == f"{tmp_path}/p.yaml:{line}" and words in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_a_policy_file_without_rules_changes_none(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    assert load_policy(tmp_path / "p.yaml", {"identity:list_users": "!"}).expressions["identity:list_users"] == "!"

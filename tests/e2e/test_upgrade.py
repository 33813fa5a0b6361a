"""A state directory and a configuration of 0.1.0 are taken over: same accounts, same objects, v1 as before and v3 beside it.

tests/golden/v0.1/node.tar.xz was written by 0.1.0: users acme:alice (.admin, key in a file), acme:bob (readers, a hash),
other:carol (.admin, .reseller_admin); containers c (read by acme:bob) and open (read by acme and other:*), and their objects.
"""
from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "v0.1" / "node.tar.xz"
LARGE = bytes(range(256)) * 1024
KEYS = {"acme:alice": "alice-key", "acme:bob": "bob-key", "other:carol": "carol-key"}


@pytest.fixture
def tools(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py"))


def unpack(directory):
    with lzma.open(GOLDEN) as file, tarfile.open(fileobj=file) as tar:
        options = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}       # it is ours, and modes count
        tar.extractall(directory, **options)
    for path, attributes in json.loads((directory / "xattrs.json").read_text()).items():
        for name, value in attributes.items():
            os.setxattr(directory / path, name, bytes.fromhex(value))


@pytest.fixture
def node(make_node, tmp_path):
    unpack(tmp_path)
    node = make_node("--config", str(tmp_path / "holdfast.toml"))
    node.up()
    return node


class Person:
    """One user, by one way to log in. call: (status, body) of a request below AUTH_<account>."""

    def __init__(self, node, tools, token):
        self._node, self._tools, self._token = node, tools, token

    def call(self, method, path="", account="acme", **fields):
        url = f"{self._node.endpoint['urls']['swift']}/AUTH_{account}{path}"
        status, body, self.fields = self._tools.call(method, url, None, **{"X-Auth-Token": self._token, **fields})
        return status, body


def by_v1(node, tools, user):
    status, _, fields = node.get(node.endpoint["urls"]["auth"], **{"X-Auth-User": user, "X-Auth-Key": KEYS[user]})
    assert status == 200
    return Person(node, tools, fields["x-auth-token"])


def log_in_v3(node, tools, user, scope):
    who = {"name": user, "domain": {"id": "default"}, "password": KEYS[user]}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": who}}, **({"scope": scope} if scope else {})}}
    return tools.call("POST", node.endpoint["urls"]["identity"] + "/auth/tokens", json.dumps(body).encode(),
                      **{"Content-Type": "application/json"})


def by_v3(node, tools, user):
    status, body, fields = log_in_v3(node, tools, user, {"project": {"id": user.partition(":")[0]}})
    assert status == 201, body
    return Person(node, tools, fields["x-subject-token"])


def test_an_upgraded_store_has_its_accounts_as_projects_and_its_objects_by_both_logins(node, tools):
    for login in (by_v1, by_v3):
        alice = login(node, tools, "acme:alice")
        assert alice.call("GET", "/c/small") == (200, b"hello of 0.1.0") and alice.fields["x-object-meta-a"] == "b"
        assert alice.call("GET", "/c/large") == (200, LARGE)
        assert alice.call("HEAD")[0] == 204 and alice.fields["x-account-meta-color"] == "blue"
        assert alice.call("GET", "/c") == (200, b"large\nsmall\n") and alice.fields["x-container-read"] == "acme:bob"
        assert alice.call("PUT", f"/new-{login.__name__}")[0] == 201
        assert alice.call("GET", "/mine", account="other")[0] == 403
        carol = login(node, tools, "other:carol")
        assert carol.call("GET", "/mine", account="other")[0] == 204 and carol.call("GET", "/open/o") == (200, b"for both")
    bob = by_v1(node, tools, "acme:bob")
    assert bob.call("GET", "/c/small")[0] == 200 and bob.call("GET", "/open/o")[0] == 200 and bob.call("PUT", "/x")[0] == 403
    assert by_v1(node, tools, "other:carol").call("GET", "/c/small") == (200, b"hello of 0.1.0")          # .reseller_admin of v1


def test_users_of_the_file_are_in_the_default_domain_with_role_admin_of_their_project_or_none(node, tools):
    status, body, _ = log_in_v3(node, tools, "acme:bob", {"project": {"id": "acme"}})
    assert status == 401, body
    status, body, _ = log_in_v3(node, tools, "acme:bob", "unscoped")
    assert status == 201 and "project" not in json.loads(body)["token"]
    status, body, _ = log_in_v3(node, tools, "acme:alice", None)
    token = json.loads(body)["token"]
    assert token["project"]["id"] == "acme" and "admin" in {role["name"] for role in token["roles"]}
    objects = next(service for service in token["catalog"] if service["type"] == "object-store")
    assert {endpoint["url"] for endpoint in objects["endpoints"]} == {f"{node.endpoint['urls']['swift']}/AUTH_acme"}


def test_a_user_without_a_role_who_is_given_one_keeps_what_acls_gave_to_its_v1_login(node, tools):
    KEYS["admin"] = (node.root / "secrets/admin.password").read_text().strip()
    _, _, fields = log_in_v3(node, tools, "admin", {"project": {"name": "admin", "domain": {"id": "default"}}})
    admin = {"X-Auth-Token": fields["x-subject-token"]}
    url = node.endpoint["urls"]["identity"]
    roles = {role["name"]: role["id"] for role in json.loads(tools.call("GET", url + "/roles", None, **admin)[1])["roles"]}
    (bob,) = json.loads(tools.call("GET", url + "/users?name=acme:bob", None, **admin)[1])["users"]
    assert tools.call("PUT", f"{url}/projects/other/users/{bob['id']}/roles/{roles['reader']}", None, **admin)[0] == 204
    _, _, fields = log_in_v3(node, tools, "acme:bob", {"project": {"id": "other"}})
    person = Person(node, tools, fields["x-subject-token"])
    assert person.call("GET", "/c/small") == (200, b"hello of 0.1.0") and person.call("GET", "", account="acme")[0] == 403


def test_stock_clients_read_the_upgraded_store_by_v3(node, tools, tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "ST_"))}
    environ = {**clean, "OS_AUTH_URL": node.endpoint["urls"]["identity"], "OS_USERNAME": "acme:alice", "OS_PASSWORD": "alice-key",
               "OS_PROJECT_NAME": "acme", "OS_PROJECT_DOMAIN_ID": "default", "OS_USER_DOMAIN_ID": "default",
               "OS_IDENTITY_API_VERSION": "3", "ST_AUTH_VERSION": "3"}
    _, body, _ = log_in_v3(node, tools, "acme:alice", None)
    # swiftclient takes a name with a colon apart, tenant and user: it is told the id
    by_id = {**environ, "OS_USER_ID": json.loads(body)["token"]["user"]["id"]}
    del by_id["OS_USERNAME"]
    for command, env in ((["openstack", "object", "list", "c", "-f", "value"], environ), (["swift", "list", "c"], by_id)):
        done = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], env=env, cwd=tmp_path, text=True,
                              capture_output=True, timeout=120, check=False)
        assert (done.returncode, done.stdout.split()) == (0, ["large", "small"]), done.stderr

"""The object store with logins of identity: stock clients, everything that ends a token, and a control API that goes away."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OBJECT_COMMANDS = """
container list
container create c1
container set --property color=blue c1
container show c1
container list
object create c1 {FILE}
object create --name o1 c1 {FILE}
object set --property a=b c1 o1
object list c1
object list --prefix o --long c1
object show c1 o1
object save --file {FILE}.back c1 o1
object unset --property a c1 o1
object delete c1 o1
container save c1
container unset --property color c1
container delete --recursive c1
object store account set --property owner=me
object store account show
object store account unset --property owner
"""
SDK = """
import openstack
c = openstack.connect(cloud='holdfast')
c.create_container('sdk')
c.create_object('sdk', 'o', data=b'hello', metadata={'a': 'b'})
assert [o.name for o in c.list_objects('sdk')] == ['o'] and c.get_object_metadata('sdk', 'o') == {'a': 'b'}
assert c.get_object('sdk', 'o')[1] == 'hello'
assert [b.name for b in c.object_store.containers() if b.name == 'sdk'] == ['sdk']
c.delete_object('sdk', 'o'); c.delete_container('sdk')
assert not [b for b in c.list_containers() if b.name == 'sdk']
print('done')
"""


@pytest.fixture
def tools(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py"))


class Cloud:
    """The Identity API of a node as its administrator sees it, and tokens for others."""

    def __init__(self, node, tools):
        self.node, self.call = node, tools.call
        self.clouds = json.loads((node.root / "clouds.yaml").read_text())["clouds"]
        admin = self.clouds["holdfast-admin"]["auth"]
        self.admin = self.token(admin["username"], admin["password"], {"project": {"name": "admin", "domain": {"id": "default"}}})
        self.roles = {role["name"]: role["id"] for role in self.api("GET", "/roles")["roles"]}

    def ask(self, method, path, body=None, token=None, **fields):
        data = json.dumps(body).encode() if body is not None else None
        fields = {name.replace("_", "-"): value for name, value in fields.items()}
        headers = {"X-Auth-Token": token or self.admin, "Content-Type": "application/json", **fields}
        return self.call(method, self.node.endpoint["urls"]["identity"] + path, data, **headers)

    def api(self, method, path, body=None, token=None, **fields):
        status, answer, _ = self.ask(method, path, body, token, **fields)
        assert status < 300, (status, answer)
        return json.loads(answer) if answer else None

    def token(self, user, password, scope=None, **who):
        person = {"name": user, "domain": {"id": "default"}, "password": password, **who}
        return self.login({"methods": ["password"], "password": {"user": person}}, scope)

    def login(self, identity, scope=None):
        auth = {"identity": identity, **({"scope": scope} if scope else {})}
        status, answer, fields = self.call("POST", self.node.endpoint["urls"]["identity"] + "/auth/tokens",
                                           json.dumps({"auth": auth}).encode(), **{"Content-Type": "application/json"})
        assert status == 201, answer
        return fields["x-subject-token"]

    def make_user(self, name, role="member"):
        """(user id, project id, token for the project): used at once, without waiting for anything."""
        user = self.api("POST", "/users", {"user": {"name": name, "password": name}})["user"]["id"]
        project = self.api("POST", "/projects", {"project": {"name": f"of {name}"}})["project"]["id"]
        self.api("PUT", f"/projects/{project}/users/{user}/roles/{self.roles[role]}")
        return user, project, self.token(name, name, {"project": {"id": project}})

    def status(self, token, method="GET", path="", *, project, data=None, **fields):
        url = f"{self.node.endpoint['urls']['swift']}/AUTH_{project}{path}"
        return self.call(method, url, data, **{"X-Auth-Token": token, **fields})[0]


@pytest.fixture
def cloud(cluster, tools):
    return Cloud(cluster, tools)


def client_environ(node):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "ST_"))}
    return {**clean, "OS_CLIENT_CONFIG_FILE": str(node.root / "clouds.yaml")}


@pytest.mark.parametrize("name", ["holdfast", "holdfast-admin"])
def test_the_everyday_object_commands_of_openstackclient_work_as_they_are(cluster, tmp_path, name):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    done = subprocess.run([sys.executable, str(HERE / "openstack_commands.py"), name], text=True, capture_output=True, cwd=tmp_path,
                          input=OBJECT_COMMANDS.replace("{FILE}", str(file)), env=client_environ(cluster), timeout=300, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["line"], row["err"]) for row in rows if row["code"] != 0] == []
    assert len(rows) == len(OBJECT_COMMANDS.strip().splitlines())
    assert (tmp_path / "file.back").read_bytes() == b"content" and (tmp_path / "o1").exists() is False


def test_swiftclient_logs_in_by_v3_and_by_v1_and_sees_the_same_account(cluster, tmp_path):
    swift = str(Path(sys.executable).parent / "swift")
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    auth = json.loads((cluster.root / "clouds.yaml").read_text())["clouds"]["holdfast"]["auth"]
    v3 = {**client_environ(cluster), **{f"OS_{name.upper()}": value for name, value in auth.items()}, "ST_AUTH_VERSION": "3"}
    demo = cluster.endpoint["demo"]
    v1 = {**client_environ(cluster), "ST_AUTH": cluster.endpoint["urls"]["auth"], "ST_USER": demo["user"], "ST_KEY": demo["key"]}

    def run(environ, *arguments):
        done = subprocess.run([swift, *arguments], env=environ, cwd=tmp_path, text=True, capture_output=True, timeout=120,
                              check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(v3, "post", "-m", "color:blue", "c")
    run(v3, "upload", "c", "f", "--object-name", "o")
    assert run(v3, "list", "c") == run(v1, "list", "c") == "o\n" and "Meta Color: blue" in run(v1, "stat", "c")
    run(v1, "download", "c", "o", "-o", "back")
    assert (tmp_path / "back").read_bytes() == b"x" * 100_000
    run(v3, "delete", "c")
    assert run(v1, "list") == ""


def test_openstacksdk_does_the_same_job(cluster):
    done = subprocess.run([sys.executable, "-c", SDK], env=client_environ(cluster), capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.stdout == "done\n", done.stderr


def test_a_token_works_at_the_object_store_in_the_moment_in_which_it_is_made(cloud):
    for number in range(5):
        _, project, token = cloud.make_user(f"quick{number}")
        assert cloud.status(token, "PUT", "/c", project=project) == 201


def disable_user(cloud, user, project, token):
    cloud.api("PATCH", f"/users/{user}", {"user": {"enabled": False}})


def change_password(cloud, user, project, token):
    cloud.api("PATCH", f"/users/{user}", {"user": {"password": "another one"}})


def disable_project(cloud, user, project, token):
    cloud.api("PATCH", f"/projects/{project}", {"project": {"enabled": False}})


def take_role_away(cloud, user, project, token):
    cloud.api("DELETE", f"/projects/{project}/users/{user}/roles/{cloud.roles['member']}")


def log_out(cloud, user, project, token):
    cloud.api("DELETE", "/auth/tokens", X_Subject_Token=token)


def delete_user(cloud, user, project, token):
    cloud.api("DELETE", f"/users/{user}")


@pytest.mark.parametrize("end", [disable_user, change_password, disable_project, take_role_away, log_out, delete_user])
def test_what_identity_takes_away_ends_at_every_worker(cloud, tools, end):
    user, project, token = cloud.make_user(end.__name__)
    assert cloud.status(token, "PUT", "/c", project=project) == 201
    end(cloud, user, project, token)
    refused = [0]

    def is_refused():
        refused[0] = refused[0] + 1 if cloud.status(token, project=project) == 401 else 0
        return refused[0] == 20              # each on a new connection, so both workers are asked

    tools.wait_until(is_refused, "the token is refused everywhere")
    assert cloud.status(cloud.admin, project=project) in (200, 204)


def test_application_credentials_mean_their_roles_and_rules_and_end_with_their_deletion(cloud, tools):
    user, project, token = cloud.make_user("keeper")
    assert cloud.status(token, "PUT", "/c", project=project) == 201
    made = {}
    rule = {"service": "object-store", "method": "PUT", "path": f"/v1/AUTH_{project}/c/*"}
    for name, more in (("reader", {"roles": [{"name": "reader"}]}), ("ruled", {"access_rules": [rule]})):
        made[name] = cloud.api("POST", f"/users/{user}/application_credentials", {"application_credential": {"name": name, **more}},
                               token)["application_credential"]
    tokens = {name: cloud.login({"methods": ["application_credential"], "application_credential": {
        "id": one["id"], "secret": one["secret"]}}) for name, one in made.items()}
    assert cloud.status(tokens["reader"], path="/c", project=project) == 204
    assert cloud.status(tokens["reader"], "PUT", "/c/o", data=b"x", project=project) == 403
    assert cloud.status(tokens["ruled"], "PUT", "/c/o", data=b"x", project=project) == 201
    assert cloud.status(tokens["ruled"], path="/c", project=project) == 401
    cloud.api("DELETE", f"/users/{user}/application_credentials/{made['ruled']['id']}", token=token)
    tools.wait_until(lambda: cloud.status(tokens["ruled"], "PUT", "/c/o", data=b"x", project=project) == 401, "the token ended")
    assert cloud.status(tokens["reader"], path="/c", project=project) in (200, 204)


def test_foreign_projects_and_scopes_that_are_none_are_refused_as_swift_does(cloud):
    _, project, token = cloud.make_user("local")
    _, other, _ = cloud.make_user("stranger")
    for path in ("", "/c", "/c/o"):
        assert cloud.status(token, path=path, project=other) == 403
    assert cloud.status(cloud.token("local", "local", "unscoped"), project=project) == 403
    system = cloud.token("admin", cloud.clouds["holdfast-admin"]["auth"]["password"], {"system": {"all": True}})
    domain = cloud.token("admin", cloud.clouds["holdfast-admin"]["auth"]["password"], {"domain": {"id": "default"}})
    assert cloud.status(system, project=project) == 204 and cloud.status(domain, project=project) == 403
    for bad in (token[:-2], token[:40], token[:-10] + "AAAAAAAAAA", "gAAAAA"):
        assert cloud.status(bad, project=project) == 401


def test_an_acl_opens_a_container_to_a_user_of_another_project(cloud, tools):
    user, _, token = cloud.make_user("guest")
    _, project, owner = cloud.make_user("host")
    assert cloud.status(owner, "PUT", "/c", project=project) == 201
    assert cloud.status(token, path="/c", project=project) == 403
    assert cloud.status(owner, "POST", "/c", project=project, **{"X-Container-Read": f"*:{user}"}) == 204
    tools.wait_until(lambda: cloud.status(token, path="/c", project=project) == 204, "reads heed it, at most a second later")
    assert cloud.status(token, "PUT", "/c/o", data=b"", project=project) == 403
    assert cloud.status(owner, "POST", "/c", project=project, **{"X-Container-Write": "of guest:guest"}) == 204
    assert cloud.status(token, "PUT", "/c/o", data=b"", project=project) == 201


def test_a_refusal_at_the_object_store_is_explained(cloud, cluster, tools):
    _, project, token = cloud.make_user("curious")
    cloud.api("DELETE", "/auth/tokens", X_Subject_Token=token)
    tools.wait_until(lambda: cloud.status(token, project=project) == 401, "the token is refused")
    _, _, fields = cloud.call("GET", f"{cluster.endpoint['urls']['swift']}/AUTH_{project}", **{"X-Auth-Token": token})
    done = cluster.run("explain", fields["x-trans-id"], "--data", str(cluster.root))
    assert done.returncode == 0 and "token.revoked" in done.stdout and token not in done.stdout


def test_tokens_go_on_while_the_control_api_is_killed_and_new_ones_when_it_is_back(make_node, tools):
    node = make_node()
    node.up()
    cloud = Cloud(node, tools)
    _, project, token = cloud.make_user("steady")
    for number in range(3):
        killed = node.pids["control"]
        os.kill(killed, signal.SIGKILL)
        for _ in range(10):
            assert cloud.status(token, "PUT", f"/c{number}", project=project) in (201, 202)
        tools.wait_until(lambda killed=killed: node.pids["control"] not in (None, killed), "the control API is there again")
    _, other, fresh = cloud.make_user("late")
    assert cloud.status(fresh, "PUT", "/c", project=other) == 201
    assert cloud.status(token, path="/c0", project=project) == 204


def test_a_worker_that_starts_again_knows_what_identity_knows(make_node, tools):
    node = make_node(environ={"HOLDFAST_NODE_WORKERS": "1"})
    node.up()
    cloud = Cloud(node, tools)
    _, project, token = cloud.make_user("known")
    _, _, gone = cloud.make_user("unknown")
    cloud.api("DELETE", "/auth/tokens", X_Subject_Token=gone)
    os.kill(node.pids["workers"][0], signal.SIGKILL)
    assert cloud.status(token, "PUT", "/c", project=project) == 201           # waits for the snapshot
    assert cloud.status(gone, "PUT", "/c", project=project) == 401


def test_a_worker_loads_what_opens_tokens_with_the_first_one_and_the_control_planes_libraries_never(make_node, tools):
    node = make_node(environ={"HOLDFAST_NODE_WORKERS": "1"})
    node.up()
    (worker,) = node.pids["workers"]

    def loaded(pid):
        text = Path(f"/proc/{pid}/maps").read_text()
        return {name for name in ("aiohttp", "sqlalchemy", "cryptography", "lmdb") if f"/{name}/" in text or f"/{name}." in text}

    tools.wait_until(lambda: loaded(node.pids["control"]) >= {"aiohttp", "sqlalchemy", "cryptography"}, "identity has them")
    assert node.login().call("PUT", "/c")[0] == 201
    assert loaded(worker) == {"lmdb"}
    cloud = Cloud(node, tools)
    assert cloud.status(cloud.admin, project="demo") == 200
    assert loaded(worker) == {"lmdb", "cryptography"}


def test_a_gateway_that_is_cut_off_answers_503_after_its_grace_and_v1_goes_on(make_node, tools):
    node = make_node(environ={"HOLDFAST_IDENTITY_AUTH_GRACE_S": "1"})
    node.up()
    cloud = Cloud(node, tools)
    _, project, token = cloud.make_user("patient")
    client = node.login()
    assert cloud.status(token, "PUT", "/c", project=project) == 201
    control = node.pids["control"]
    os.kill(control, signal.SIGSTOP)
    try:
        tools.wait_until(lambda: cloud.status(token, path="/c", project=project) == 503, "a token cannot be judged any more")
        assert client.call("PUT", "/v1")[0] == 201
    finally:
        os.kill(control, signal.SIGCONT)
    tools.wait_until(lambda: cloud.status(token, path="/c", project=project) == 204, "identity is heard again")


def test_processes_that_stand_still_are_replaced_and_all_is_served_again(make_node, tools):
    node = make_node(environ={"HOLDFAST_NODE_WORKERS": "2"})
    node.up()
    cloud = Cloud(node, tools)
    _, project, token = cloud.make_user("patient")
    control, worker = node.pids["control"], node.pids["workers"][0]
    for pid in (control, worker):
        os.kill(pid, signal.SIGSTOP)
    tools.wait_until(lambda: node.pids["control"] not in (None, control) and node.pids["workers"][0] not in (None, worker),
                     "both are replaced")
    _, other, fresh = cloud.make_user("late")
    tools.wait_until(lambda: cloud.status(fresh, "PUT", "/c", project=other) in (201, 202), "the gateways hear identity again")
    assert cloud.status(token, "PUT", "/c", project=project) == 201


def test_a_node_without_identity_refuses_its_tokens_as_any_other(make_node, tools):
    node = make_node(environ={"HOLDFAST_IDENTITY_LISTEN": ""})
    node.up()
    client = node.login()
    assert client.call("PUT", "/c")[0] == 201
    client.token = "gAAAAABpHrzm" + "A" * 200
    assert client.call("PUT", "/c")[0] == 401

"""A node's Identity API with clients that are not ours: openstackclient, openstacksdk, botocore; and what restarts leave."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMMANDS = """
P=project create p1
project list
project show {P}
project set --name p1x {P}
project set --tag blue {P}
U=user create --password p --project {P} u1
user list
user show {U}
user set --password q {U}
user set --description text {U}
G=group create g1
group list
group add user {G} {U}
group contains user {G} {U}
group remove user {G} {U}
R=role create r1
role list
role add --user {U} --project {P} {R}
role assignment list --names
role assignment list --effective --user {U}
role remove --user {U} --project {P} {R}
implied role list
implied role create r1 --implied-role reader
implied role delete r1 --implied-role reader
D=domain create d1
domain list
domain show {D}
domain set --disable {D}
domain delete {D}
S=service create --name n compute
service list
service show compute
E=endpoint create --region RegionOne compute public http://x
endpoint list
endpoint show {E}
endpoint delete {E}
service delete {S}
region create R2
region list
region delete R2
catalog list
catalog show object-store
token issue
A=application credential create ac1
application credential list
application credential show {A}
application credential delete {A}
access rule list
C=credential create --type cert {U} blob
credential list
credential delete {C}
K=ec2 credentials create
ec2 credentials list
ec2 credentials show {K_access}
ec2 credentials delete {K_access}
trust list
registered limit list
limit list
policy list
versions show --service identity
role delete {R}
group delete {G}
user delete {U}
project delete {P}
"""
AS_DEMO = """
project list
project show demo
token issue
catalog list
application credential create ac1
application credential list
application credential delete ac1
K=ec2 credentials create
ec2 credentials delete {K_access}
"""


def openstack(node, cloud, text):
    """The rows of openstack_commands.py."""
    environ = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(node.root / "clouds.yaml")}
    done = subprocess.run([sys.executable, str(HERE / "openstack_commands.py"), cloud], input=text, text=True, capture_output=True,
                          env={name: value for name, value in environ.items() if not name.startswith("OS_") or "CLIENT" in name},
                          cwd=node.root.parent, timeout=300, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def token_of(node, cloud="holdfast-admin"):
    auth = json.loads((node.root / "clouds.yaml").read_text())["clouds"][cloud]["auth"]
    user = {"name": auth["username"], "password": auth["password"], "domain": {"id": "default"}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}},
                     "scope": {"project": {"name": auth["project_name"], "domain": {"id": "default"}}}}}
    status, answer, fields = node_call(node, "POST", "/auth/tokens", body)
    assert status == 201, answer
    return fields["x-subject-token"]


def node_call(node, method, path, body=None, **headers):
    import urllib.request

    request = urllib.request.Request(node.endpoint["urls"]["identity"] + path, method=method, headers=headers,
                                     data=json.dumps(body).encode() if body is not None else None)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {name.lower(): value for name, value in error.headers.items()}


@pytest.mark.parametrize(("cloud", "commands"), [("holdfast-admin", COMMANDS), ("holdfast", AS_DEMO)])
def test_the_everyday_commands_of_openstackclient_work_as_they_are(cluster, cloud, commands):
    rows = openstack(cluster, cloud, commands)
    assert [(row["line"], row["err"]) for row in rows if row["code"] != 0] == []
    assert len(rows) == len(commands.strip().splitlines())


def test_a_refusal_is_told_as_one(cluster):
    (row,) = openstack(cluster, "holdfast", "user create mallory")
    assert row["code"] == 1 and "403" in row["err"]


def test_openstacksdk_finds_the_services_and_pages_through_users(cluster):
    script = ("import openstack; c = openstack.connect(cloud='holdfast-admin');"
              "[c.identity.create_user(name=f'sdk{n}') for n in range(5)];"
              "found = [u for u in c.identity.users(limit=2) if u.name.startswith('sdk')];"
              "[c.identity.delete_user(u) for u in found];"
              "print(len(found), c.endpoint_for('identity'), c.endpoint_for('object-store'))")
    environ = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(cluster.root / "clouds.yaml")}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    count, identity, objects = done.stdout.split()
    assert (count, identity) == ("5",
                                 cluster.endpoint["urls"]["identity"]) and objects.startswith(cluster.endpoint["urls"]["swift"])


def test_files_with_passwords_are_for_their_owner_alone(cluster):
    token_of(cluster)                        # a login waits for identity, and so for its files
    for name in ("clouds.yaml", "openrc", "secrets/admin.password", "control/identity.sqlite", "secrets/token-keys/1"):
        assert (cluster.root / name).stat().st_mode & 0o077 == 0, name
    password = (cluster.root / "secrets/admin.password").read_text().strip()
    assert password not in cluster.log()
    for pid in (cluster.pids["control"], cluster.pids["supervisor"]):
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()


def test_objects_are_served_while_the_control_api_is_killed_and_comes_back(make_node, tools):
    node = make_node()
    node.up()
    token = token_of(node)
    client = node.login()
    assert client.call("PUT", "/c")[0] == 201
    killed = node.pids["control"]
    os.kill(killed, signal.SIGKILL)
    assert client.call("PUT", "/c/o", b"hello")[0] == 201 and client.call("GET", "/c/o") == (200, b"hello")
    status, _, _ = node_call(node, "GET", "/users", **{"X-Auth-Token": token})       # waits in the listener for the next one
    assert status == 200 and not tools.is_running(killed)
    tools.wait_until(lambda: node.pids["control"] not in (None, killed), "endpoint.json names the new process")


def test_users_and_passwords_outlive_a_stop_and_nothing_runs_after_it(make_node, tools):
    node = make_node()
    node.up()
    status, made, _ = node_call(node, "POST", "/users", {"user": {"name": "kept"}}, **{"X-Auth-Token": token_of(node)})
    assert status == 201
    control = node.pids["control"]
    node.down()
    assert not tools.is_running(control)
    node.up()
    user = json.loads(made)["user"]
    assert node_call(node, "GET", f"/users/{user['id']}", **{"X-Auth-Token": token_of(node)})[0] == 200


def test_a_node_can_be_without_the_control_plane(make_node):
    node = make_node(environ={"HOLDFAST_IDENTITY_LISTEN": ""})
    node.up()
    assert "identity" not in node.endpoint["urls"] and "control" not in node.pids and not (node.root / "clouds.yaml").exists()


def test_token_keys_are_rotated_by_a_command(cluster):
    token = token_of(cluster)
    done = cluster.run("identity", "rotate-keys", "--data", str(cluster.root))
    assert (done.returncode, done.stdout) == (0, "tokens are sealed with key 2 from now on\n"), done.stderr
    assert node_call(cluster, "GET", "/users", **{"X-Auth-Token": token})[0] == 200
    assert sorted(path.name for path in (cluster.root / "secrets/token-keys").iterdir()) == ["0", "1", "2"]


def test_a_refused_request_of_the_control_plane_is_explained(cluster):
    _, _, fields = node_call(cluster, "GET", "/users", **{"X-Auth-Token": token_of(cluster, "holdfast")})
    done = cluster.run("explain", fields["x-openstack-request-id"], "--data", str(cluster.root))
    assert done.returncode == 0 and "identity:list_users" in done.stdout and "policy" in done.stdout


def test_identity_speaks_tls_where_the_object_apis_do_and_the_files_say_so(make_node, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    node = make_node(environ={"HOLDFAST_TLS_CERT": str(cert), "HOLDFAST_TLS_KEY": str(key)})
    node.up()
    assert node.endpoint["urls"]["identity"].startswith("https://")
    rows = openstack(node, "holdfast-admin", "token issue\ncatalog show object-store\n")
    assert [(row["line"], row["err"]) for row in rows if row["code"] != 0] == [] and "https://" in rows[1]["out"]


@pytest.mark.parametrize(("is_allowed", "status"), [("false", 403), ("true", 201)])
def test_on_a_public_listener_without_tls_passwords_are_refused_unless_allowed(make_node, is_allowed, status):
    node = make_node("--listen", "0.0.0.0:0", environ={"HOLDFAST_TLS_INSECURE_HTTP": is_allowed})
    node.up()
    auth = json.loads((node.root / "clouds.yaml").read_text())["clouds"]["holdfast"]["auth"]
    user = {"name": auth["username"], "password": auth["password"], "domain": {"id": "default"}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"project": {"id": "demo"}}}}
    got, answer, _ = node_call(node, "POST", "/auth/tokens", body)
    assert got == status
    if status == 201:                        # the URL has the name by which this client came, not that of every interface
        catalog = {service["type"]: service["endpoints"][0]["url"] for service in json.loads(answer)["token"]["catalog"]}
        assert catalog["object-store"] == node.endpoint["demo"]["storage_url"]


@pytest.fixture
def tools(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py"))

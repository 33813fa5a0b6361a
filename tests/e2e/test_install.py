"""A real install: root, users, owners, a node that runs from it, upgrade, removal; on a copy of this machine.

The copy is an overlay over / in namespaces of its own, so nothing of the machine itself changes. systemd does not run in it.
"""
from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.environment import find_parts

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.needs_root
_ENTER = """\
set -eu
ip link set lo up
mount -t tmpfs -o mode=0755 none {base}
mkdir {base}/up {base}/work {base}/root
mount -t overlay overlay -o lowerdir=/,upperdir={base}/up,workdir={base}/work {base}/root
mount -t tmpfs none {base}/root/opt
mount -t tmpfs none {base}/root/run
mount --bind /dev {base}/root/dev
mount -t proc proc {base}/root/proc
cp -r {source} {base}/root/opt/source
exec chroot {base}/root /bin/sh -c {script}
"""
_BEGIN = """\
cd /; unset HOLDFAST_CONFIG
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
rm -rf /etc/holdfast /var/lib/holdfast /opt/holdfast /usr/local/bin/holdfast; userdel holdfast 2>/dev/null || true
from_source() {{ PYTHONPATH=/opt/source PYTHONSAFEPATH=1 {python} -m cli "$@" 2>&1; }}
step() {{ echo; echo "## $1"; }}
as_user() {{ setpriv --reuid holdfast --regid holdfast --init-groups "$@" 2>&1; }}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The packages as they are now; others may work on the checkout."""
    place = tmp_path_factory.mktemp("source")
    for package in find_parts(ROOT).packages:
        shutil.copytree(package, place / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    shutil.copy(ROOT / "Containerfile", place)
    return place


@pytest.fixture
def on_a_copy(source, tmp_path):
    """Run a script as root of a copy of this machine; what it printed, by `step`."""
    def run(script):
        base = tmp_path / "machine"
        base.mkdir()
        whole = _BEGIN.format(python=sys.executable) + script
        done = subprocess.run(["unshare", "-mnpf", "sh", "-c", _ENTER.format(base=base, source=source, script=shlex.quote(whole))],
                              text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        parts = re.split(r"\n## (.*)\n", done.stdout)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    return run


@pytest.mark.all_only
def test_install_run_upgrade_uninstall_and_purge(on_a_copy):
    said = on_a_copy(r"""
step refused; setpriv --reuid 65534 --clear-groups env PYTHONPATH=/opt/source PYTHONSAFEPATH=1 true || true
from_source install --rollback || echo code $?
step install; from_source install
step again; from_source install
step owners; id -u holdfast >/dev/null && stat -c '%n %a %U:%G' /etc/holdfast /etc/holdfast/holdfast.toml /var/lib/holdfast \
    /etc/systemd/system/holdfast.service; getent passwd holdfast
step up; as_user holdfast up --config /etc/holdfast/holdfast.toml --detach
step asked; curl -sS http://127.0.0.1:9180/healthz; echo
stat -c %U "/proc/$(python3 -c 'import json; print(json.load(open("/var/lib/holdfast/endpoint.json"))["pids"]["supervisor"])')"
(umask 077; as_user curl -sS -K /var/lib/holdfast/demo.curl > /tmp/token)
curl -sS -K /tmp/token -X PUT -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/v1/AUTH_demo/c
curl -sS -K /tmp/token -X PUT -d hello -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/v1/AUTH_demo/c/o
step running; from_source uninstall || echo code $?
step upgrade; echo '# newer' >> /opt/source/cli/usage.py; from_source install
step served; curl -sS -K /tmp/token -w ' %{http_code}\n' http://127.0.0.1:8080/v1/AUTH_demo/c/o; holdfast usage
step down; as_user holdfast down
step rollback; from_source install --rollback; holdfast version
step port; python3 -m http.server --bind 127.0.0.1 8080 > /dev/null 2>&1 & other=$!
for _ in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:8080 && break; sleep 0.1; done
from_source install || echo code $?; kill $other
step uninstall; before=$(id -u holdfast); from_source uninstall; id holdfast 2>&1 || true
ls /opt /usr/local/bin; stat -c %u /var/lib/holdfast
step number; from_source install; [ "$(id -u holdfast)" = "$before" ] && echo same owner; from_source uninstall
step reinstall; useradd --system --uid "$before" other; from_source install; [ "$(id -u holdfast)" != "$before" ] && echo new owner
as_user holdfast up --config /etc/holdfast/holdfast.toml --detach
curl -sS -K /tmp/token -w ' %{http_code}\n' http://127.0.0.1:8080/v1/AUTH_demo/c/o; as_user holdfast down
step unsure; from_source uninstall --purge || echo code $?; ls /var/lib/holdfast | wc -l
step purge; from_source uninstall --purge --yes; ls -d /var/lib/holdfast /etc/holdfast /opt/holdfast 2>&1 || true
""")
    assert "no environment to go back to" in said["refused"] and "code 1" in said["refused"]
    assert "make the system user holdfast" in said["install"] and "systemd does not run here" in said["install"]
    assert said["again"].strip() == "everything was as it should be"
    assert said["owners"].splitlines()[:4] == [
        "/etc/holdfast 750 root:holdfast", "/etc/holdfast/holdfast.toml 640 root:holdfast",
        "/var/lib/holdfast 700 holdfast:holdfast", "/etc/systemd/system/holdfast.service 644 root:root"]
    assert "nologin" in said["owners"]
    assert "ready:" in said["up"]
    assert '"is_healthy": true' in said["asked"] and said["asked"].split()[-3:] == ["holdfast", "201", "201"]
    assert "stop it first" in said["running"] and "code 1" in said["running"]
    assert "in place of" in said["upgrade"]
    assert "hello 200" in said["served"] and "AUTH_demo" in said["served"]
    assert "stopped" in said["down"] and "go back" in said["rollback"]
    assert "has the port" in said["port"] and "code 1" in said["port"]
    assert "no such user" in said["uninstall"] and "holdfast" not in said["uninstall"].split("no such user")[1]
    assert "same owner" in said["number"] and "give /var/lib/holdfast" not in said["number"]
    assert "new owner" in said["reinstall"] and "give /var/lib/holdfast" in said["reinstall"] and "hello 200" in said["reinstall"]
    assert "nothing was done" in said["unsure"] and "code 1" in said["unsure"] and int(said["unsure"].split()[-1]) > 3
    assert said["purge"].count("No such file") == 3


def test_what_the_containerfile_does_gives_a_node_that_is_healthy_and_refuses_logins_in_clear(on_a_copy):
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    health = json.loads(re.search(r"HEALTHCHECK .*?CMD (\[.*\])", text)[1])
    listen = re.search(r"ENV (HOLDFAST_NODE_LISTEN=\S+)", text)[1]
    useradd = re.search(r"useradd [^\n]*?holdfast(?= *\n)", text)[0]
    entry = json.loads(re.search(r"ENTRYPOINT (\[.*\])", text)[1]) + json.loads(re.search(r"\nCMD (\[.*\])", text)[1])
    said = on_a_copy(f"""
step image; from_source install --root /run/image
cp -a /run/image/opt/holdfast /opt/; cp -a /run/image/usr/local/. /usr/local/
mkdir -p /etc/holdfast; cp -a /run/image/etc/holdfast/. /etc/holdfast/; rm -rf /run/image
{useradd}; chown -R root:holdfast /etc/holdfast; install -d -m 0700 -o holdfast -g holdfast /var/lib/holdfast
step run; as_user env {listen} {shlex.join(entry)} > /run/log &
for _ in $(seq 100); do grep -q ready: /run/log && break; sleep 0.3; done; cat /run/log
step health; as_user {shlex.join(health)}; echo code $?
step login; as_user cat /var/lib/holdfast/demo.curl > /run/login
curl -sS -K /run/login -o /dev/null -w '%{{http_code}}\\n' http://127.0.0.1:8080/auth/v1.0 || true
step stop; as_user holdfast down; as_user {shlex.join(health)} > /dev/null || echo code $?
""")
    assert "done, below" in said["image"]
    assert "logins are refused" in said["run"] and "ready:" in said["run"]
    assert said["health"].strip() == "code 0"
    assert "403" in said["login"]
    assert "code 1" in said["stop"]

"""rclone over its Swift backend does a day's work on a real node, over HTTP and TLS."""
import json
import shutil

import pytest

from tests.e2e.client_helpers import SCHEMES, Program, make_tree, read_tree, running, same


@pytest.fixture(scope="module", params=SCHEMES)
def node(request, tmp_path_factory):
    with running(tmp_path_factory.mktemp("node"), request.param) as started:
        yield started


@pytest.fixture
def rclone(node, tmp_path):
    endpoint = node.endpoint
    trust = {"RCLONE_CA_CERT": endpoint["tls_cert"]} if "tls_cert" in endpoint else {}
    return Program("rclone", tmp_path, RCLONE_CONFIG="/dev/null", RCLONE_CONFIG_R_TYPE="swift", RCLONE_CONFIG_R_AUTH_VERSION="1",
                   RCLONE_CONFIG_R_USER=endpoint["demo"]["user"], RCLONE_CONFIG_R_KEY=endpoint["demo"]["key"],
                   RCLONE_CONFIG_R_AUTH=endpoint["urls"]["auth"], RCLONE_RETRIES="1", RCLONE_LOW_LEVEL_RETRIES="1", **trust)


def test_rclone_keeps_a_tree(rclone, tmp_path):
    here = tmp_path / "tree"
    tree = make_tree(here)
    rclone.run("copy", "tree", "r:files")
    rclone.run("check", "tree", "r:files")
    rclone.run("check", "tree", "r:files", "--download")
    assert sorted(rclone.lines("lsf", "-R", "--files-only", "r:files")) == sorted(tree)
    assert sorted(rclone.lines("lsf", "r:files/deep")) == ["er.txt", "er/"]
    assert json.loads(rclone.run("size", "--json", "r:files")) == {"count": len(tree), "bytes": sum(map(len, tree.values())),
                                                                   "sizeless": 0}
    rclone.run("copy", "r:files", "back")
    same(read_tree(tmp_path / "back"), tree)
    assert rclone.run("cat", "--offset", "65530", "--count", "20", "r:files/3 MiB.bin") == tree["3 MiB.bin"][65_530:65_550]

    (here / "a.txt").write_bytes(b"changed, and longer than before")
    (here / "new").write_bytes(b"new")
    shutil.rmtree(here / "big")
    rclone.run("sync", "tree", "r:files")
    rclone.run("check", "tree", "r:files")
    assert sorted(rclone.lines("lsf", "-R", "--files-only", "r:files")) == sorted(read_tree(here))

    rclone.run("copyto", "r:files/3 MiB.bin", "r:files/copy")               # by COPY: the bytes stay where they are
    rclone.run("moveto", "r:files/new", "r:files/moved/new")
    assert rclone.run("cat", "r:files/copy") == tree["3 MiB.bin"] and rclone.run("cat", "r:files/moved/new") == b"new"
    rclone.run("rcat", "r:files/piped", data=b"from a pipe")
    assert rclone.run("cat", "r:files/piped") == b"from a pipe"
    assert "new" not in rclone.lines("lsf", "r:files")

    rclone.run("delete", "r:files", "--include", "/deep/**")
    assert [name for name in rclone.lines("lsf", "-R", "r:files") if name.startswith("deep")] == []
    rclone.run("purge", "r:files")
    assert rclone.lines("lsf", "r:") == []


def test_rclone_lists_many_names(rclone, tmp_path):
    here = tmp_path / "many"
    here.mkdir()
    for number in range(300):
        (here / f"{number:03}").write_bytes(b"x" * number)
    rclone.run("copy", "--transfers", "16", "many", "r:many")
    assert rclone.lines("lsf", "r:many") == [f"{number:03}" for number in range(300)]
    rclone.run("check", "many", "r:many")
    rclone.run("purge", "r:many")

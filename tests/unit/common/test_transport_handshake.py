"""Both ends prove that they know the key; what does not belong together is refused and says why."""
from __future__ import annotations

import pytest

from common.errors import HandshakeRefused
from common.handshake import ClientHandshake, Credentials, ServerHandshake, cluster_keys, derive_key


def credentials(name="n1/w0", *, secret=b"secret", fingerprint="f", version=1, role="worker"):
    return Credentials(name=name, role=role, fingerprint=fingerprint, keys=cluster_keys(secret), version=version)


def shake(client, server):
    return server.verify(client.prove(server.challenge(client.hello())))


def test_both_ends_learn_who_the_other_is():
    client, server = ClientHandshake(credentials("n1/w0")), ServerHandshake(credentials("n2/w1", role="admin"))
    peer = shake(client, server)
    assert (peer.name, peer.role) == ("n1/w0", "worker")
    assert (client.peer.name, client.peer.role) == ("n2/w1", "admin")


@pytest.mark.parametrize(("other", "word"), [
    (credentials("n2/w0", secret=b"other"), "key"),
    (credentials("n2/w0", fingerprint="g"), "configuration"),
    (credentials("n2/w0", version=2), "version"),
    (credentials("n3/w0"), "not n2/w0"),
])
def test_a_difference_is_refused_with_its_reason(other, word):
    with pytest.raises(HandshakeRefused) as caught:
        shake(ClientHandshake(credentials(), expected="n2/w0"), ServerHandshake(other))
    assert word in caught.value.fields["reason"]


@pytest.mark.parametrize(("other", "word"), [
    (credentials("n2/w0", fingerprint="g"), "configuration"), (credentials("n2/w0", version=2), "version"),
    (credentials("n3/w0"), "not n2/w0"),
])
def test_the_client_checks_for_itself_what_the_server_let_pass(other, word):
    client = ClientHandshake(credentials(), expected="n2/w0")
    with pytest.raises(HandshakeRefused, match=word):
        client.prove([other.version, other.name, other.role, other.fingerprint, bytes(32), bytes(32)])


def test_a_client_with_another_key_is_refused_by_the_server():
    server = ServerHandshake(credentials("n2/w0"))
    server.challenge(ClientHandshake(credentials()).hello())
    with pytest.raises(HandshakeRefused, match="another key"):
        server.verify([bytes(32)])


def test_a_proof_cannot_be_reflected_or_replayed():
    client, server = ClientHandshake(credentials()), ServerHandshake(credentials("n2/w0"))
    challenge = server.challenge(client.hello())
    with pytest.raises(HandshakeRefused):
        server.verify([challenge[-1]])                           # the server's own proof sent back
    proof = client.prove(challenge)
    later = ServerHandshake(credentials("n2/w0"))
    later.challenge(client.hello())
    with pytest.raises(HandshakeRefused):
        later.verify(proof)                                      # another nonce, another proof


def test_a_proof_without_a_hello_is_refused():
    with pytest.raises(HandshakeRefused):
        ServerHandshake(credentials()).verify([bytes(32)])


def test_an_unknown_node_is_refused():
    own = Credentials(name="n2/w0", role="worker", fingerprint="f", keys=lambda name: None)
    with pytest.raises(HandshakeRefused, match="not known"):
        ServerHandshake(own).challenge(ClientHandshake(credentials()).hello())


@pytest.mark.parametrize("fields", [[], [1], ["1", "a", "", "r", "f", bytes(32)], [True, "a", "", "r", "f", bytes(32)],
                                    [1, "a", "", "r", "f", bytes(8)], [1, "a" * 300, "", "r", "f", bytes(32)],
                                    [1, "a", "", "r", "f", bytes(3000)], [1, b"a", "", "r", "f", bytes(32)]])
def test_what_is_no_hello_is_refused(fields):
    with pytest.raises(HandshakeRefused):
        ServerHandshake(credentials()).challenge(fields)


def test_node_keys_differ_and_workers_of_a_node_share_one():
    assert derive_key(b"s", "n1") != derive_key(b"s", "n2") != derive_key(b"t", "n2")
    keys = cluster_keys(b"s")
    assert keys("n1/w0") == keys("n1/w1") == keys("n1") == derive_key(b"s", "n1")

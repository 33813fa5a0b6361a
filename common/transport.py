"""The transport between processes: framed msgpack calls over one multiplexed connection per pair.

    server = RpcServer({OP_LOOK: look}, credentials=credentials)          # common/rpc_server.py
    await server.listen_unix(path)
    client = RpcClient(unix_connector(path), credentials=credentials)     # common/rpc_client.py
    fields, body = await client.call(OP_LOOK, [key], timeout_s=5.0)

Byte map and order of messages: docs/formats/wire.md. Frames: common/frames.py; who may talk: common/handshake.py; one
connection: common/link.py; bodies in chunks: common/streams.py; faults on purpose: common/faultnet.py.

Budget of a call with a 4 KiB body, 64 in flight, both sides together: 6-8 us CPU, one copy of the body per side.
"""
from __future__ import annotations

from common.faultnet import FaultRules
from common.frames import OP_MAX, OP_MIN
from common.handshake import Credentials, cluster_keys, derive_key
from common.rpc_client import InDownload, Reply, RpcClient, Upload
from common.rpc_server import Answer, Call, Download, Handler, RpcServer
from common.sockets import Connect, tcp_connector, unix_connector
from common.streams import DATA_BYTES_MAX, WINDOW_BYTES
from common.streams import InFlow as InStream

__all__ = [
    "DATA_BYTES_MAX", "OP_MAX", "OP_MIN", "WINDOW_BYTES", "Answer", "Call", "Connect", "Credentials", "Download", "FaultRules",
    "Handler", "InDownload", "InStream", "Reply", "RpcClient", "RpcServer", "Upload", "cluster_keys", "derive_key", "tcp_connector",
    "unix_connector",
]

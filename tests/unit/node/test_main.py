"""What a start that cannot succeed leaves behind."""
from __future__ import annotations

import os
import socket

import pytest

from common.config import build_config
from common.errors import ConfigError
from node.config import HoldfastConfig
from node.main import Launch, run_node


@pytest.mark.parametrize("setting", ["listen", "admin_listen"])
def test_a_port_that_is_taken_is_told_of_before_a_store_is_made(tmp_path, setting):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = {"node.listen": "127.0.0.1:0", "node.admin_listen": "127.0.0.1:0", f"node.{setting}": f"127.0.0.1:{port}"}

        def load():
            return build_config(HoldfastConfig, overrides={"node.data": str(tmp_path / "s"), **addresses})

        with pytest.raises(ConfigError) as caught:
            run_node(Launch(load=load, device_count=None, say=lambda line: None, on_ready=lambda endpoint: None))
    assert caught.value.fields["where"] == f"node.{setting}" and str(port) in str(caught.value.fields["reason"])
    assert os.listdir(tmp_path / "s") == ["run"]

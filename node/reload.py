"""A new configuration for all processes of a node: all of them run it afterwards, or none does and the caller hears why."""
from __future__ import annotations

from typing import Protocol

from common.errors import StorageError
from common.log import get_logger
from node.config import HoldfastConfig

_log = get_logger("node.reload")


class Part(Protocol):
    """The workers, or the control API: takes a configuration whole, or raises and goes on with the one it has."""

    async def reload(self, config: HoldfastConfig) -> None:
        """Raises `StorageError`."""


async def reload_all(new: HoldfastConfig, *, old: HoldfastConfig, workers: Part, control: Part | None) -> None:
    """Raises what one of them refused it for; then all run the old one, or the log says which does not."""
    await workers.reload(new)
    if control is None:
        return
    try:
        await control.reload(new)
    except StorageError:
        try:
            await workers.reload(old)
        except StorageError as error:
            _log.error("workers run the new configuration, identity the old one: reload or restart", error=error)
        raise

"""Settings of the devices."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.config import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectConfig:
    """TOML table [object]."""

    inline_bytes_max: int = setting(65_536, "larger bodies become files of their own", low=0, high=1 << 20)
    segment_bytes: int = setting(16_777_216, "size of a journal segment", low=4 << 20, high=1 << 30)
    reserve_bytes: int = setting(16_777_216, "kept free on each device, so that deletes work on a full disk", low=1 << 20)
    disk_fill_max: float = setting(0.95, "above it new bodies are refused, all else goes on", low=0.01, high=1.0)
    peer_timeout_s: float = setting(10.0, "one replica request, first to last byte", low=0.1, high=600)
    request_timeout_s: float = setting(20.0, "one client request without its body; longer than a worker takes to restart",
                                       low=6, high=3600)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Values that do not fit together."""
        if self.segment_bytes % 4096:
            yield "segment_bytes", f"object.segment_bytes must be a multiple of 4096, not {self.segment_bytes}"
        if self.segment_bytes < 4 * self.inline_bytes_max:
            yield "segment_bytes", "object.segment_bytes must be at least 4 times object.inline_bytes_max"
        if self.peer_timeout_s > self.request_timeout_s:
            yield "peer_timeout_s", "object.peer_timeout_s is longer than object.request_timeout_s"

"""What one end of a connection wants, before the other end is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vaylix_protocol._constants import FRAME_BYTES_MAX, U16_MAX, Capabilities, Compression

__all__ = ["ConnectionSettings"]

# The published server's threshold (VTP2 section 3). The published clients compress everything;
# a client may use any threshold, and below about 1 KiB compression costs more than it saves.
_COMPRESSION_THRESHOLD_BYTES: Final = 1024
# Far more than a client can keep in flight usefully, and still only a few MiB of memory.
_OUTSTANDING_MAX: Final = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionSettings:
    """Settings of one end of a connection, client or server.

    - `client_name`, `client_version`, `auth_intent`: what a client says about itself in its
      hello; servers ignore them in their own settings.
    - `capabilities`: what a client offers. A server always accepts the five known ones.
    - `compression`: what this end would like. ZSTD is used only if both ends want it.
    - `max_frame_bytes`: the largest payload of a frame, compressed or not, that this end takes
      or sends; 1 to 8 MiB. The smaller one of both ends counts for both directions.
    - `compression_threshold_bytes`: bodies below it are sent as they are, even with ZSTD.
    - `outstanding_max`: requests of a client that may wait for their replies at a time.
    - `groups_runs`: a server gets plain GETs and SETs as `GetRun` and `SetRun`.

    Raises ValueError for a number out of range or a text of more than 65 535 bytes.
    """

    client_name: str = "vaylix-client"
    client_version: str = "0.10.0"
    auth_intent: bool = False
    capabilities: Capabilities = Capabilities.ALL
    compression: Compression = Compression.ZSTD
    max_frame_bytes: int = FRAME_BYTES_MAX
    compression_threshold_bytes: int = _COMPRESSION_THRESHOLD_BYTES
    outstanding_max: int = _OUTSTANDING_MAX
    groups_runs: bool = False

    def __post_init__(self) -> None:
        for text in (self.client_name, self.client_version):
            if len(text.encode()) > U16_MAX:
                raise ValueError("client_name and client_version hold at most 65535 bytes")
        if not 1 <= self.max_frame_bytes <= FRAME_BYTES_MAX:
            raise ValueError(f"max_frame_bytes must be 1 to {FRAME_BYTES_MAX}")
        if self.compression_threshold_bytes < 0:
            raise ValueError("compression_threshold_bytes must not be negative")
        if self.outstanding_max < 1:
            raise ValueError("outstanding_max must be at least 1")

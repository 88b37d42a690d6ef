"""What runs of plain GETs and SETs are measured by."""

from __future__ import annotations

import pytest

from vaylix_protocol import SetRun
from vaylix_server.fast_paths import payload_bytes

IDS = [bytes([number]) * 16 for number in range(3)]


@pytest.mark.parametrize(
    "run",
    [
        SetRun(IDS[:1], [b""], [b""]),
        SetRun(IDS[:1], [b"key"], [b"value"]),
        SetRun(IDS, [b"a", b"", b"long" * 9], [b"", b"value" * 500, b"v"]),
    ],
)
def test_a_run_takes_what_its_requests_take(run: SetRun) -> None:
    assert payload_bytes(run) == sum(request.payload_bytes for request in run.requests())

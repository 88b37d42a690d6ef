"""Which password opens the door after a start, and what the log says about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import vaylix_protocol as vtp
from vaylix_protocol import ErrorReply, Ok
from vaylix_server.settings import Settings
from vaylix_server.testing import serve_in_memory

DEFAULT = Settings()
CHOSEN = Settings(password="secret1")
KEPT = "keeps the password that was set earlier"
WELL_KNOWN = "the default credentials are configured"


async def passwords_that_work(directory: Path, settings: Settings) -> tuple[set[str], str]:
    """Start a server, try all passwords, and return those that fit and its log."""
    fitting = set()
    async with serve_in_memory(directory, replace(settings, auth_failure_limit=10)) as server:
        for password in ("vaylix", "secret1", "secret2"):
            client = await server.greet()
            reply = await client.ask(vtp.Auth("vaylix", password))
            if reply == Ok():
                fitting.add(password)
            else:
                assert isinstance(reply, ErrorReply)
                assert reply.code == "SRV-008"
    return fitting, server.output.getvalue()


async def test_the_default_pair_opens_a_new_directory_and_the_log_warns(tmp_path: Path) -> None:
    for _ in range(2):
        fitting, log = await passwords_that_work(tmp_path, DEFAULT)
        assert fitting == {"vaylix"}
        assert WELL_KNOWN in log
        assert KEPT not in log


async def test_the_default_pair_does_not_reset_a_password_and_the_log_says_so(
    tmp_path: Path,
) -> None:
    assert (await passwords_that_work(tmp_path, CHOSEN))[0] == {"secret1"}
    fitting, log = await passwords_that_work(tmp_path, DEFAULT)
    assert fitting == {"secret1"}
    assert KEPT in log
    assert WELL_KNOWN not in log


async def test_a_new_password_is_set_and_nothing_is_said_about_it(tmp_path: Path) -> None:
    await passwords_that_work(tmp_path, CHOSEN)
    for _ in range(2):
        fitting, log = await passwords_that_work(tmp_path, Settings(password="secret2"))
        assert fitting == {"secret2"}
        assert "server.security" not in log


async def test_a_name_that_was_chosen_earlier_is_kept_as_well(tmp_path: Path) -> None:
    await passwords_that_work(tmp_path, Settings(user="root", password="secret1"))
    fitting, log = await passwords_that_work(tmp_path, DEFAULT)
    assert fitting == set()
    assert KEPT in log

"""The table of rules."""

from __future__ import annotations

from typing import get_args

import vaylix_protocol as vtp
from vaylix_server.dispatcher import _REPLICATION
from vaylix_server.rules import RULES


def test_every_command_of_the_protocol_has_a_rule_or_is_one_between_nodes() -> None:
    assert set(RULES) | _REPLICATION == set(get_args(vtp.Command))
    assert not _REPLICATION & set(RULES)

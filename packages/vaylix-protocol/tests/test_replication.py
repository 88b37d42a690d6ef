"""The JSON between nodes of the published server."""

from __future__ import annotations

import msgspec
import pytest

from vaylix_protocol import (
    RemoteProtocolError,
    ReplicationAck,
    ReplicationAppend,
    ReplicationFetch,
    ReplicationHeartbeat,
    ReplicationInstallSnapshot,
    ReplicationVote,
)
from vaylix_protocol import replication as wire

ENTRY = (
    b'{"sequence":1,"term":0,"created_at_ms":1700000000000,"operations":['
    b'{"Set":{"key":"k","value":[0,255],"version":1}},'
    b'{"Expire":{"key":"k","expires_at_ms":1700000060000}}]}'
)
MEMBERS = b'"members":[{"node_id":"n2","advertise_addr":"10.0.0.2:9173","voter":true}]'
LEADER = b'"term":2,"leader_node_id":"n1","leader_addr":"10.0.0.1:9173","commit_sequence":7'


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (ReplicationFetch(b'{"after_sequence":0,"limit":0}'), wire.FetchRequest),
        (
            ReplicationAck(
                b'{"follower_node_id":"n2","applied_sequence":7,"term":2,"leader_node_id":"n1"}'
            ),
            wire.AckRequest,
        ),
        (
            ReplicationVote(
                b'{"term":2,"candidate_node_id":"n2","candidate_addr":"10.0.0.2:9173",'
                b'"last_log_index":7,"last_log_term":1,"prevote":true}'
            ),
            wire.VoteRequest,
        ),
        (
            ReplicationHeartbeat(
                b"{" + LEADER + b',"leader_frontier_sequence":7,' + MEMBERS + b"}"
            ),
            wire.HeartbeatRequest,
        ),
        (
            ReplicationAppend(
                b"{" + LEADER + b',"leader_frontier_sequence":7,"prev_sequence":0,"prev_term":null,'
                b'"prev_entry_checksum":null,"entries":[' + ENTRY + b"]," + MEMBERS + b"}"
            ),
            wire.AppendRequest,
        ),
        (
            ReplicationInstallSnapshot(
                b"{" + LEADER + b"," + MEMBERS + b',"snapshot":{"state":{"data":{"k":{"value":[1],'
                b'"expires_at_ms":null,"version":3}},"metadata":{"version":3,"created_at_ms":1,'
                b'"updated_at_ms":2,"last_snapshot_at_ms":null,"last_applied_sequence":7}},'
                b'"storage_format_version":3,"exported_at_ms":9}}'
            ),
            wire.InstallRequest,
        ),
    ],
)
def test_what_is_read_is_written_in_the_listed_order(
    command: wire.WithBody, kind: type[msgspec.Struct]
) -> None:
    message = wire.decode_request(command)
    assert type(message) is kind
    assert wire.encode(message) == command.json


@pytest.mark.parametrize(
    "command",
    [
        ReplicationFetch(b""),
        ReplicationFetch(b"nope"),
        ReplicationFetch(b"[]"),
        ReplicationFetch(b'{"after_sequence":1}'),
        ReplicationFetch(b'{"after_sequence":-1,"limit":1}'),
        ReplicationFetch(b'{"after_sequence":"1","limit":1}'),
        ReplicationFetch(b'{"after_sequence":1,"limit":1,"x":"\xff"}'),
        ReplicationFetch(b'{"after_sequence":1,"limit":1} x'),
        ReplicationHeartbeat(b"{" + LEADER + b',"leader_frontier_sequence":7,"members":null}'),
        ReplicationAppend(
            b"{" + LEADER + b',"leader_frontier_sequence":7,"prev_sequence":0,"entries":[{'
            b'"sequence":1,"created_at_ms":1,"operations":["Wipe"]}],' + MEMBERS + b"}"
        ),
        ReplicationAppend(
            b"{" + LEADER + b',"leader_frontier_sequence":7,"prev_sequence":0,"entries":[{'
            b'"sequence":1,"created_at_ms":1,"operations":[{"Wipe":{}}]}],' + MEMBERS + b"}"
        ),
    ],
)
def test_anything_else_is_refused_with_its_code(command: wire.WithBody) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode_request(command)
    assert caught.value.error_code.code == "SRV-030"


def test_unknown_fields_and_missing_optional_ones_are_accepted() -> None:
    vote = ReplicationVote(
        b'{"term":1,"candidate_node_id":"n","candidate_addr":"a","last_log_index":0,"new":[1]}'
    )
    assert wire.decode_request(vote) == wire.VoteRequest(1, "n", "a", 0)


def test_bytes_may_come_as_text() -> None:
    as_text = ENTRY.replace(b"[0,255]", b'"\\u0000"')
    (operation, _) = msgspec.json.decode(as_text, type=wire.Entry).operations
    assert isinstance(operation, wire.Operation)
    assert operation.set == wire.Set("k", "\0")

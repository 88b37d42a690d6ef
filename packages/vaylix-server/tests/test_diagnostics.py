"""INFO, METRICS, METRICS PROM, HEALTH and WHOAMI, by server spec section 9."""

from __future__ import annotations

import re
from pathlib import Path

import vaylix_protocol as vtp
from vaylix_server.metrics import METRICS, Metrics
from vaylix_server.session import Session
from vaylix_server.settings import Settings
from vaylix_server.testing import WireClient, serve_in_memory

INFO_KEYS_WITHOUT_METRICS = [
    "health.status",
    "persistence.last_recovery_duration_ms",
    "persistence.last_snapshot_at_ms",
    "persistence.last_snapshot_duration_ms",
    "persistence.oldest_retained_sequence",
    "persistence.wal_segment_count",
    "persistence.wal_size_bytes",
    "persistence.wal_sync_policy",
    "replication.client.append.failure.count",
    "replication.client.append.latency.avg.ms",
    "replication.client.connection.opened.count",
    "replication.client.heartbeat.failure.count",
    "replication.client.reconnect.count",
    "replication.commit_sequence",
    "replication.group_id",
    "replication.health",
    "replication.leader_node_id",
    "replication.node_id",
    "replication.paused",
    "replication.reason",
    "replication.retention_floor_sequence",
    "replication.role",
    "replication.upstream",
    "replication.write_ack_mode",
    "runtime.auth_failure_limit",
    "runtime.auth_failure_window_seconds",
    "runtime.auth_lockout_seconds",
    "runtime.backup_dir",
    "runtime.expiration_sweep_interval_seconds",
    "runtime.idle_timeout_seconds",
    "runtime.locked_auth_records",
    "runtime.maintenance_mode",
    "runtime.max_key_bytes",
    "runtime.max_keys_per_batch",
    "runtime.max_request_payload_bytes",
    "runtime.max_transaction_queue_len",
    "runtime.max_value_bytes",
    "runtime.request_burst",
    "runtime.requests_per_second",
    "runtime.slow_command_threshold_ms",
    "runtime.snapshot_interval_seconds",
    "runtime.transaction_max_seconds",
    "runtime.wal_retain_segments",
    "runtime.wal_segment_size_bytes",
    "security.auth_mode",
    "security.auth_required",
    "security.cert_days_remaining",
    "security.cert_not_after_ms",
    "security.insecure_auth_disabled",
    "security.insecure_default_credentials",
    "security.last_tls_reload_failure_at_ms",
    "security.last_tls_reload_success_at_ms",
    "security.mtls_enabled",
    "security.rbac_enabled",
    "security.storage_encryption",
    "security.storage_key_id",
    "security.tls_enabled",
    "security.tls_mode",
    "server.git_sha",
    "server.mode",
    "server.version",
    "storage.engine_version",
    "storage.key_count",
    "storage.last_applied_sequence",
    "transport.compression",
    "transport.compression_mode",
    "transport.compression_threshold_bytes",
    "transport.max_decompressed_frame_len",
    "transport.max_frame_len",
    "transport.protocol_magic",
    "transport.protocol_version",
]


async def entries(client: WireClient, command: vtp.Command) -> dict[str, str]:
    reply = await client.ask(command)
    assert isinstance(reply, vtp.Entries), reply
    return {key.decode(): value.decode() for key, value in reply.pairs}


async def test_info_has_the_94_keys_sorted(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        info = await entries(client, vtp.Info())
        expected = INFO_KEYS_WITHOUT_METRICS + [f"metrics.{spec.name}" for spec in METRICS]
        assert list(info) == sorted(expected)
        assert len(info) == 94


async def test_info_tells_the_truth(tmp_path: Path) -> None:
    settings = Settings(requests_per_second=1000)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        before = await entries(client, vtp.Info())
        await client.ask(vtp.MSet(((b"a", b"1"), (b"b", b"2"))))
        await client.ask(
            vtp.Set(b"dying", b"", expiration=vtp.Expiration(vtp.TimeUnit.MILLISECONDS, 1))
        )
        while await client.ask(vtp.Exists(b"dying")) == vtp.Bool(True):
            pass
        after = await entries(client, vtp.Info())
        assert (before["storage.key_count"], after["storage.key_count"]) == ("0", "2")
        sequences = [int(info["storage.last_applied_sequence"]) for info in (before, after)]
        assert sequences[1] == sequences[0] + 2
        assert after["runtime.requests_per_second"] == "1000"
        assert after["runtime.request_burst"] == "2000"
        assert after["runtime.idle_timeout_seconds"] == "disabled"
        assert after["persistence.wal_sync_policy"] == "sync"
        assert after["security.storage_encryption"] == "enabled"
        assert after["persistence.last_snapshot_at_ms"] == "none"
        assert re.fullmatch(r"\d+\.\d+\.\d+", after["server.version"])


async def test_metrics_come_in_their_order_and_count(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Get(b"k"))
        await client.ask(vtp.Set(b"k", b"v"))
        await client.ask_all([vtp.Multi(), vtp.Exec(), vtp.Multi(), vtp.Discard()])
        await client.ask(vtp.Auth("vaylix", "wrong"))
        metrics = await entries(client, vtp.Metrics())
        assert list(metrics) == [spec.name for spec in METRICS]
        assert {name.removeprefix("vaylix."): value for name, value in metrics.items()} | {
            "server.connection.accepted.count": "1",
            "server.connection.active": "1",
            "server.connection.completed.count": "0",
            "server.request.count": "9",
            "server.auth.success.count": "1",
            "server.auth.failure.count": "1",
            "server.transaction.begin.count": "2",
            "server.transaction.commit.count": "1",
            "server.transaction.discard.count": "1",
            "server.ha.write.batch.count": "1",
            "server.ha.write.coordinated.count": "1",
            "server.ha.write.batch.max.size": "1",
        } == {name.removeprefix("vaylix."): value for name, value in metrics.items()}


async def test_metrics_prom_has_three_lines_for_each_and_no_line_end_at_its_end(
    tmp_path: Path,
) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        reply = await client.ask(vtp.MetricsProm())
        assert isinstance(reply, vtp.Value)
        lines = reply.data.decode().split("\n")
        assert len(lines) == 69
        for position, spec in enumerate(METRICS):
            name = spec.name.replace(".", "_")
            help_line, type_line, value_line = lines[3 * position : 3 * position + 3]
            assert re.fullmatch(rf"# HELP {name} \S.*\. Unit: {re.escape(spec.unit)}\.", help_line)
            assert type_line == f"# TYPE {name} {spec.kind}"
            assert re.fullmatch(rf"{name} \d+", value_line)


async def test_health_of_a_ready_node(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await entries(client, vtp.Health()) == {
            "status": "ready",
            "ready": "true",
            "reason": "none",
            "role": "standalone",
            "maintenance_mode": "false",
        }


async def test_whoami_of_the_administrator(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await entries(client, vtp.WhoAmI()) == {
            "username": "vaylix",
            "permissions": "read,write,admin,backup,restore,metrics,snapshot,clear,"
            "user_admin,role_admin",
        }


async def test_slow_commands_are_counted(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path, Settings(slow_command_threshold_ms=1)) as server:
        client = await server.login()
        pairs = tuple((b"k%d" % number, b"v" * 4000) for number in range(256))
        for _ in range(20):
            await client.ask(vtp.MSet(pairs))
            await client.ask(vtp.List())
        metrics = await entries(client, vtp.Metrics())
        assert int(metrics["vaylix.server.command.slow.count"]) > 0


async def test_each_slow_command_is_counted_once_however_it_is_served(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        (session,) = server.server._registry._members
        assert isinstance(session, Session)
        # Everything takes longer than this.
        session._slow_seconds = 1e-12
        metrics = server.server.services.metrics
        reads: list[vtp.Command] = [vtp.Get(b"k%d" % number) for number in range(65)]
        write, ping = vtp.Set(b"k", b"v"), vtp.Ping()
        for pipeline in (
            reads[:1],
            reads[:64],
            reads,
            [write],
            [write] * 1500,
            # Few enough to be served at once, and too heavy for it.
            [vtp.Set(b"k", bytes(100_000))] * 20,
            [ping],
            [write, *reads[:1], ping, write],
            [vtp.Multi(), write, *reads[:1], vtp.Exec()],
        ):
            before = metrics.slow_commands, metrics.requests
            client.send_bytes(
                b"".join(
                    client.connection.send_request(number.to_bytes(16, "big"), command)
                    for number, command in enumerate(pipeline)
                )
            )
            for _ in pipeline:
                await client.receive()
            counted = metrics.slow_commands - before[0], metrics.requests - before[1]
            assert counted == (len(pipeline), len(pipeline))


def test_every_metric_has_its_number() -> None:
    assert [value for _, value in Metrics().values()] == [0] * 23

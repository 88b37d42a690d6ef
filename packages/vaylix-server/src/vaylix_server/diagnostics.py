"""INFO, METRICS, HEALTH and WHOAMI: what the server says about itself (server spec section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from vaylix_protocol import FRAME_BYTES_MAX, ConnectionSettings, Entries, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaylix_server.access import Rights
    from vaylix_server.authenticator import Authenticator
    from vaylix_server.clock import TimeKeeper
    from vaylix_server.metrics import Metrics
    from vaylix_server.settings import Settings
    from vaylix_server.snapshotter import Snapshotter
    from vaylix_server.write_path import WritePath
    from vaylix_storage.backend import Storage

__all__ = ["SERVER_VERSION", "Diagnostics", "StartFacts"]

SERVER_VERSION = version("vaylix-server")
_STATE_SCHEMA_VERSION = 4


@dataclass(frozen=True, slots=True)
class StartFacts:
    """What was found when the server was started."""

    recovery_ms: int
    in_maintenance: bool
    is_durable: bool


class Diagnostics:
    """Builds the replies; everything is read at the moment of asking, on the loop's thread."""

    def __init__(
        self,
        *,
        settings: Settings,
        storage: Storage,
        write_path: WritePath,
        authenticator: Authenticator,
        metrics: Metrics,
        clock: TimeKeeper,
        snapshotter: Snapshotter,
        start: StartFacts,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._write_path = write_path
        self._authenticator = authenticator
        self._metrics = metrics
        self._clock = clock
        self._snapshotter = snapshotter
        self._recovery_ms = start.recovery_ms
        self._in_maintenance = start.in_maintenance
        self._is_durable = start.is_durable

    def health(self) -> Entries:
        """Return HEALTH. A failed log degrades the node: it still reads, and never acknowledges."""
        failure = self._write_path.failure
        pairs: list[tuple[str, object]] = [
            ("status", self._status),
            ("ready", failure is None),
            ("reason", self._reason),
            ("role", "standalone"),
            ("maintenance_mode", self._in_maintenance),
        ]
        return _entries(pairs)

    def whoami(self, username: str, rights: Rights) -> Entries:
        """Return WHOAMI: the permissions that are held on everything, in canonical order."""
        return _entries(
            [("username", username), ("permissions", ",".join(rights.global_permissions))]
        )

    def metrics(self) -> Entries:
        """Return METRICS."""
        return _entries((spec.name, value) for spec, value in self._measured().values())

    def exposition(self) -> Value:
        """Return METRICS PROM."""
        return Value(self._measured().exposition().encode())

    def info(self) -> Entries:
        """Return INFO, sorted by key."""
        sections: tuple[Callable[[], dict[str, object]], ...] = (
            self._server_info,
            self._transport_info,
            self._storage_info,
            self._security_info,
            self._runtime_info,
            self._replication_info,
        )
        pairs = {name: value for section in sections for name, value in section().items()}
        pairs |= {f"metrics.{spec.name}": value for spec, value in self._measured().values()}
        return _entries(sorted(pairs.items()))

    @property
    def clock_problem(self) -> str | None:
        """How far the wall clock is from the time of the log, when that is more than usual."""
        self._clock.now()
        if not self._clock.is_far_off:
            return None
        offset_ms = self._clock.offset_ms
        side = "behind" if offset_ms < 0 else "ahead of"
        return f"clock_offset_ms: {offset_ms}; the wall clock is {side} the time of the log"

    def _measured(self) -> Metrics:
        self._clock.now()
        clock = self._clock
        self._metrics.clock_offset_ms = abs(clock.offset_ms) if clock.is_far_off else 0
        return self._metrics

    @property
    def _status(self) -> str:
        return "ready" if self._write_path.failure is None else "degraded"

    @property
    def _reason(self) -> str:
        if self._write_path.failure is not None:
            return f"log_failed: {self._write_path.failure}; restart the server to recover"
        return self.clock_problem or "none"

    def _server_info(self) -> dict[str, object]:
        return {
            "server.version": SERVER_VERSION,
            "server.git_sha": "unknown",
            "server.mode": "single-node",
            "health.status": self._status,
        }

    def _transport_info(self) -> dict[str, object]:
        compression = "none" if self._settings.disable_compression else "zstd"
        threshold = (
            0
            if self._settings.disable_compression
            else ConnectionSettings().compression_threshold_bytes
        )
        return {
            "transport.protocol_magic": "VTP2",
            "transport.protocol_version": 2,
            "transport.compression": compression,
            "transport.compression_mode": compression,
            "transport.compression_threshold_bytes": threshold,
            "transport.max_frame_len": FRAME_BYTES_MAX,
            "transport.max_decompressed_frame_len": FRAME_BYTES_MAX,
        }

    def _storage_info(self) -> dict[str, object]:
        log = self._storage.log
        return {
            "storage.engine_version": _STATE_SCHEMA_VERSION,
            "storage.key_count": self._storage.keyspace.key_count(self._clock.now()),
            "storage.last_applied_sequence": self._write_path.commit_index,
            "persistence.wal_size_bytes": log.size_bytes,
            "persistence.wal_segment_count": log.segment_count,
            "persistence.oldest_retained_sequence": log.first_index,
            "persistence.wal_sync_policy": self._settings.wal_sync if self._is_durable else None,
            "persistence.last_recovery_duration_ms": self._recovery_ms,
            "persistence.last_snapshot_at_ms": self._snapshotter.last_at_ms,
            "persistence.last_snapshot_duration_ms": self._snapshotter.last_duration_ms,
        }

    def _security_info(self) -> dict[str, object]:
        settings, key_id = self._settings, self._storage.encryption_key_id
        return {
            "security.auth_required": not settings.disable_auth,
            "security.auth_mode": "disabled" if settings.disable_auth else "password",
            "security.insecure_auth_disabled": settings.disable_auth,
            "security.insecure_default_credentials": settings.uses_default_credentials,
            "security.rbac_enabled": not settings.disable_auth,
            "security.tls_enabled": False,
            "security.tls_mode": "plaintext",
            "security.mtls_enabled": False,
            "security.cert_not_after_ms": None,
            "security.cert_days_remaining": None,
            "security.last_tls_reload_success_at_ms": None,
            "security.last_tls_reload_failure_at_ms": None,
            "security.storage_encryption": "enabled" if key_id else "disabled",
            "security.storage_key_id": key_id,
        }

    def _runtime_info(self) -> dict[str, object]:
        settings = self._settings
        limits: dict[str, object] = {
            f"runtime.{name}": getattr(settings, name)
            for name in (
                "max_request_payload_bytes",
                "max_key_bytes",
                "max_value_bytes",
                "max_keys_per_batch",
                "max_transaction_queue_len",
                "transaction_max_seconds",
                "auth_failure_window_seconds",
                "auth_failure_limit",
                "auth_lockout_seconds",
                "wal_segment_size_bytes",
            )
        }
        rate = settings.requests_per_second
        return limits | {
            "runtime.idle_timeout_seconds": settings.idle_timeout_seconds or "disabled",
            "runtime.backup_dir": settings.backup_directory,
            "runtime.maintenance_mode": self._in_maintenance,
            "runtime.requests_per_second": "disabled" if rate is None else rate,
            "runtime.request_burst": "disabled" if rate is None else settings.burst,
            "runtime.wal_retain_segments": settings.wal_retain_segments,
            "runtime.locked_auth_records": self._authenticator.locked_count(),
            "runtime.snapshot_interval_seconds": settings.snapshot_interval_seconds or "disabled",
            "runtime.expiration_sweep_interval_seconds": (
                settings.expiration_sweep_interval_seconds or "disabled"
            ),
            "runtime.slow_command_threshold_ms": settings.slow_command_threshold_ms or "disabled",
        }

    def _replication_info(self) -> dict[str, object]:
        return {
            "replication.role": "standalone",
            "replication.node_id": self._storage.node_id,
            "replication.group_id": "default",
            "replication.write_ack_mode": self._settings.write_ack_mode,
            "replication.leader_node_id": None,
            "replication.upstream": None,
            "replication.paused": False,
            "replication.health": self._status,
            "replication.reason": self._reason,
            "replication.commit_sequence": self._write_path.commit_index,
            "replication.retention_floor_sequence": None,
            "replication.client.connection.opened.count": 0,
            "replication.client.reconnect.count": 0,
            "replication.client.append.failure.count": 0,
            "replication.client.heartbeat.failure.count": 0,
            "replication.client.append.latency.avg.ms": 0,
        }


def _entries(pairs: Iterable[tuple[str, object]]) -> Entries:
    return Entries(tuple((name.encode(), _text(value).encode()) for name, value in pairs))


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

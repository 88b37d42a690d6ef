"""Composition: settings and plugins in, a server out; and its start and stop, in their order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING, Self, cast

from vaylix_protocol import Compression, ConnectionSettings
from vaylix_server.authenticator import Authenticator
from vaylix_server.build_info import ALL_IS_COMPILED
from vaylix_server.clock import TimeKeeper
from vaylix_server.collector import settle_collector
from vaylix_server.diagnostics import SERVER_VERSION, Diagnostics, StartFacts
from vaylix_server.errors import SettingsError, StartupError, refusal
from vaylix_server.eventlog import EventLog
from vaylix_server.ids import uuid7
from vaylix_server.interfaces import Listener, StorageRequest
from vaylix_server.lockout import LockoutPolicy, LockoutTable
from vaylix_server.metrics import Metrics
from vaylix_server.plugins import Plugins, load_plugins
from vaylix_server.rebuilding import bootstrap, rebuild
from vaylix_server.registry import SessionRegistry
from vaylix_server.rules import Limits
from vaylix_server.services import Services
from vaylix_server.session import Session
from vaylix_server.slow_commands import SlowCommands
from vaylix_server.snapshotter import Snapshotter
from vaylix_server.sync_gate import SyncGate
from vaylix_server.walk_guard import WalkGuard
from vaylix_server.write_path import WritePath
from vaylix_storage import RealVfs
from vaylix_storage.errors import StorageError
from vaylix_storage.logical_backup import BackupDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from vaylix_server.machine import StateMachine
    from vaylix_server.settings import Settings
    from vaylix_storage.backend import Storage

__all__ = ["Server", "compose", "run_server"]

# How long a stop waits for clients that do not take their replies.
STOP_PATIENCE_SECONDS = 10.0
# Dead keys are removed in slices of about a millisecond.
EXPIRED_KEYS_A_SLICE = 500
HOUSEKEEPING_SECONDS = 0.1
BUSY_HOUSEKEEPING_SECONDS = 0.005
# How long a thread that comes back from the disk waits for a busy loop to let it say so. The 5 ms
# of the interpreter are the time of twenty batches, and a request would wait as long for a thread.
THREAD_SWITCH_SECONDS = 0.000_05
MAINTENANCE_SENTINEL = "maintenance.mode"
EXIT_FAILURE = 1
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Server:
    """A composed server. `start`, then `stop`; both once, on the loop it will run on.

    As a context manager it does both:

        async with compose(Settings(port=0, data_dir=path)) as server:
            print(server.address)
    """

    def __init__(self, settings: Settings, plugins: Plugins, log: EventLog) -> None:
        self._settings = settings
        self._plugins = plugins
        self.log = self._log = log
        self._transport = plugins.transport(settings.transport)
        self._backend = plugins.storage_backend(settings.storage_backend)
        self._ack_mode = plugins.ack_mode(settings.write_ack_mode)
        self._metrics = Metrics()
        self._registry = SessionRegistry(slots=settings.max_connections, metrics=self._metrics)
        self._services: Services | None = None
        self._storage: Storage | None = None
        self._listener: Listener | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._next_sweep_at = 0.0
        self._is_password_current = True
        self._failed = False
        self._is_unwell = False

    @property
    def listener(self) -> Listener:
        """The open door; the memory transport's lets clients in the same process connect."""
        assert self._listener is not None, "the server has not been started"
        return self._listener

    @property
    def address(self) -> str:
        """Where clients reach the server."""
        return self.listener.address

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, whatever happened."""
        del kind, error, traceback
        await self.stop()

    async def start(self) -> None:
        """Listen, recover, and let clients in. Raises `StartupError`; then nothing is left open.

        The port is taken before anything is touched on disk: a second server on the same port
        must not so much as create a file. Clients that come before the end of recovery wait for
        it.
        """
        async with contextlib.AsyncExitStack() as opened:
            listener = await self._listen()
            opened.push_async_callback(listener.wait_closed)
            opened.callback(listener.stop_accepting)
            services = self._open(opened)
            opened.push_async_callback(services.snapshotter.close)
            opened.callback(services.write_path.close)
            opened.callback(services.authenticator.close)
            try:
                await listener.start_accepting()
            except OSError as error:
                raise self._listening_failure(error) from error
            opened.pop_all()
        self._listener = listener
        self._next_sweep_at = services.loop.time() + (
            self._settings.expiration_sweep_interval_seconds or 0
        )
        self._housekeeping_turn()
        self._announce_clock(services)
        self._announce()

    async def _listen(self) -> Listener:
        settings = self._settings
        try:
            return await self._transport.listen(settings.bind, settings.port, self._make_session)
        except (OSError, UnicodeError) as error:
            raise self._listening_failure(error) from error

    def _listening_failure(self, error: OSError | UnicodeError) -> StartupError:
        settings = self._settings
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        return StartupError(
            "SRV-001",
            "Listener Bind Failure",
            f"failed to bind TCP listener: {error}",
            f"free port {settings.port} or choose another one with --port"
            if in_use
            else f"check --bind {settings.bind} and --port {settings.port}",
        )

    async def stop(self) -> None:
        """Stop accepting, answer what is in flight, sync, and mark the log as cleanly closed."""
        if self._listener is None or self._services is None or self._storage is None:
            return
        self._listener.stop_accepting()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        services, write_path = self._services, self._services.write_path
        self._registry.begin_stop()
        services.snapshotter.begin_stop()
        await write_path.drain()
        await self._registry.wait_until_empty(patience_seconds=STOP_PATIENCE_SECONDS)
        await services.slow_commands.close()
        await write_path.drain()
        await self._listener.wait_closed()
        await self._take_final_snapshot(services)
        write_path.close()
        services.authenticator.close()
        self._services = None
        self._close_storage(self._storage)

    async def _take_final_snapshot(self, services: Services) -> None:
        """Spare the next start the replay; what is acknowledged does not depend on it."""
        is_possible = self._backend.is_durable and not services.keyspace.is_being_restored
        if is_possible and not self._failed:
            try:
                await services.snapshotter.take()
            except (StorageError, OSError):
                # It has been logged. The process says by its exit code that not all is well.
                self._is_unwell = True
        await services.snapshotter.close()

    def _close_storage(self, storage: Storage) -> None:
        """Mark the log as cleanly closed, unless it has failed or fails now."""
        if not self._failed:
            try:
                storage.close()
            except (StorageError, OSError) as error:
                self._report_failure(str(error))
            else:
                self._log.info("server.shutdown", f"stopped; {self._what_is_kept}")
                return
        storage.abandon()
        self._log.error("server.shutdown", "stopped after a failure of the log; see above")

    def _open(self, opened: contextlib.AsyncExitStack) -> Services:
        """Open the storage, rebuild the state from its log, and wire everything together."""
        settings, started = self._settings, time.perf_counter()
        storage = self._backend.open(StorageRequest(directory=settings.data_dir, settings=settings))
        opened.callback(storage.abandon)
        try:
            machine = rebuild(storage)
            current = storage.snapshots.current
            snapshot_index = 0 if current is None else current.index
            self._metrics.entries_replayed = machine.last_applied - snapshot_index
            clock = TimeKeeper(
                wall_ms=_wall_ms, elapsed_ms=_boot_ms, start_ms=machine.last_timestamp_ms
            )
            self._is_password_current = bootstrap(settings, storage, machine, clock)
        except (StorageError, OSError) as error:
            raise refusal(error) from error
        recovery_ms = round((time.perf_counter() - started) * 1000)
        self._storage = storage
        self._services = self._wire(storage, machine, clock, recovery_ms)
        return self._services

    def _wire(
        self, storage: Storage, machine: StateMachine, clock: TimeKeeper, recovery_ms: int
    ) -> Services:
        settings, loop = self._settings, asyncio.get_running_loop()
        in_maintenance = (settings.data_dir / MAINTENANCE_SENTINEL).exists()
        write_path = WritePath(
            storage=storage,
            machine=machine,
            clock=clock,
            ack_mode=self._ack_mode,
            metrics=self._metrics,
            gate=SyncGate(),
            on_failure=self._report_failure,
        )
        authenticator = Authenticator(
            loop=loop,
            access=machine.access,
            lockouts=LockoutTable(
                LockoutPolicy(
                    window_seconds=settings.auth_failure_window_seconds,
                    failures_max=settings.auth_failure_limit,
                    lockout_seconds=settings.auth_lockout_seconds,
                )
            ),
            metrics=self._metrics,
            now_ms=_boot_ms,
        )
        snapshotter, slow_commands = self._wire_snapshots(storage, machine, write_path)
        return Services(
            loop=loop,
            settings=settings,
            protocol_settings=_protocol_settings(settings),
            limits=Limits.of(settings),
            keyspace=machine.keyspace,
            access=machine.access,
            write_path=write_path,
            authenticator=authenticator,
            diagnostics=Diagnostics(
                settings=settings,
                storage=storage,
                write_path=write_path,
                authenticator=authenticator,
                metrics=self._metrics,
                clock=clock,
                snapshotter=snapshotter,
                start=StartFacts(recovery_ms, in_maintenance, self._backend.is_durable),
            ),
            snapshotter=snapshotter,
            slow_commands=slow_commands,
            metrics=self._metrics,
            log=self._log,
            new_server_id=lambda: uuid7(_wall_ms(), secrets.token_bytes(10)),
            in_maintenance=in_maintenance,
        )

    def _wire_snapshots(
        self, storage: Storage, machine: StateMachine, write_path: WritePath
    ) -> tuple[Snapshotter, SlowCommands]:
        walk = WalkGuard()
        snapshotter = Snapshotter(
            settings=self._settings,
            storage=storage,
            machine=machine,
            write_path=write_path,
            walk=walk,
            metrics=self._metrics,
            log=self._log,
            wall_ms=_wall_ms,
        )
        slow_commands = SlowCommands(
            machine=machine,
            write_path=write_path,
            snapshotter=snapshotter,
            backups=BackupDirectory(self._settings.backup_directory, vfs=RealVfs()),
            walk=walk,
            wall_ms=_wall_ms,
            new_id=lambda: secrets.token_bytes(16),
        )
        return snapshotter, slow_commands

    def _housekeeping_turn(self) -> None:
        """Let dead keys leave memory, a slice at a time, so that no request waits for it."""
        services = self.services
        freed = 0
        if services.loop.time() >= self._next_sweep_at:
            freed = services.keyspace.expire_step(
                services.write_path.read_time_ms(), EXPIRED_KEYS_A_SLICE
            )
            if freed:
                services.metrics.expiration_sweeps += 1
            elif self._settings.expiration_sweep_interval_seconds is not None:
                self._next_sweep_at += self._settings.expiration_sweep_interval_seconds
        services.snapshotter.look()
        # Writes free dead keys, too.
        services.metrics.expired_keys_removed = services.keyspace.expired_count
        busy = freed >= EXPIRED_KEYS_A_SLICE
        pause = BUSY_HOUSEKEEPING_SECONDS if busy else HOUSEKEEPING_SECONDS
        self._housekeeping = services.loop.call_later(pause, self._housekeeping_turn)

    def _report_failure(self, what: str) -> None:
        self._failed = True
        self._log.error(
            "server.storage",
            f"the log has failed, no write will be acknowledged any more: {what}; "
            f"reads go on; make room or repair the disk, then restart the server to recover",
        )

    def _make_session(self) -> asyncio.Protocol:
        # It has the interface, but not the base class.
        return cast("asyncio.Protocol", Session(self.services, self._registry))

    def _announce_clock(self, services: Services) -> None:
        problem = services.diagnostics.clock_problem
        if problem is not None:
            self._log.warning(
                "server.startup",
                f"{problem}, by which keys expire. If the wall clock is wrong, set it. If it is "
                f"right, it was wrong when the log was written: take a dump with BACKUP TO, and "
                f"RESTORE FROM it in a new --data-dir",
            )

    def _announce(self) -> None:
        """Say what an operator should know, and how to talk to the server."""
        log, settings = self._log, self._settings
        assert self._storage is not None
        if self.services.in_maintenance:
            log.warning(
                "server.startup",
                f"maintenance mode is on: writes are refused; to end it, delete "
                f"{settings.data_dir / MAINTENANCE_SENTINEL} and restart",
            )
        for plugin in self._plugins.found:
            if plugin.problem is not None:
                log.warning(
                    "server.startup",
                    f"plugin {plugin.name} of {plugin.distribution} is not in use: "
                    f"{plugin.problem}",
                )
        for note in self._storage.notes:
            log.info("server.startup", note)
        if settings.disable_auth:
            log.warning(
                "server.security", "authentication is disabled: everybody may do everything"
            )
        elif not self._is_password_current:
            log.info(
                "server.security",
                "the administrator keeps the password that was set earlier; "
                "give it with --password-file, or set another one that way",
            )
        elif settings.uses_default_credentials:
            log.warning(
                "server.security",
                "the default credentials are configured; set --user and --password-file",
            )
        if settings.wal_sync != "sync":
            log.warning(
                "server.security",
                f"--wal-sync {settings.wal_sync}: a power cut can lose acknowledged writes",
            )
        build = " (compiled)" if ALL_IS_COMPILED else ""
        where = settings.data_dir if self._backend.is_durable else "memory only"
        log.info(
            "server.startup",
            f"vaylix {SERVER_VERSION}{build} listening on {self.address}, data in {where}",
        )
        if self._transport.name == "tcp":
            # Whoever brings another transport knows what its clients are.
            host, _, port = self.address.rpartition(":")
            # Brackets belong to an address with a port; as a host the client cannot look it up.
            host = host.removeprefix("[").removesuffix("]")
            log.info("server.startup", f"talk to it: vaylix-client --host {host} --port {port}")

    @property
    def _what_is_kept(self) -> str:
        if self._backend.is_durable:
            return "everything acknowledged is on disk"
        return f"--storage-backend {self._backend.name} keeps nothing"

    @property
    def has_failed(self) -> bool:
        """Whether the log or the last snapshot has failed."""
        return self._failed or self._is_unwell

    @property
    def services(self) -> Services:
        """What sessions share, between start and stop."""
        assert self._services is not None, "the server is not running"
        return self._services


# Where there is one, a clock that goes on while the machine sleeps.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def compose(
    settings: Settings, *, extra_plugins: Sequence[object] = (), log: EventLog | None = None
) -> Server:
    """Load plugins and choose among what they register; nothing is opened yet.

    Raises `SettingsError` for a name nobody registered and `PluginError` for plugins that cannot
    be used together.
    """
    disabled = [name.strip() for name in settings.disable_plugins.split(",") if name.strip()]
    plugins = load_plugins(strict=settings.strict_plugins, disabled=disabled, extra=extra_plugins)
    return Server(settings, plugins, EventLog() if log is None else log)


def run_server(settings: Settings) -> int:
    """Run a server until SIGTERM or SIGINT, and return the exit code of the process.

    Raises `ServerError` when it cannot start.
    """
    if settings.transport == "memory":
        raise SettingsError("--transport memory is for clients in the same process only")
    server = compose(settings)
    sys.setswitchinterval(THREAD_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(server))


async def _serve(server: Server) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    broken: list[str] = []

    def on_unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES:
            # The stock event loop could not accept; it tries again by itself.
            server.log.error("server.accept", f"[SRV-002] Connection Accept Failure: {error}")
            return
        # An exception nobody expected is a defect of ours. Going on could mean to answer wrongly
        # or never; everything acknowledged is on disk, so stopping is safe.
        loop.default_exception_handler(context)
        broken.append(str(context.get("message")))
        stopping.set()

    loop.set_exception_handler(on_unexpected)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with server:
        settle_collector()
        await stopping.wait()
    return EXIT_FAILURE if broken or server.has_failed else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  # Optional: plain asyncio serves where it is missing.
    except ImportError:
        return None
    return uvloop.new_event_loop


def _protocol_settings(settings: Settings) -> ConnectionSettings:
    compression = Compression.NONE if settings.disable_compression else Compression.ZSTD
    return ConnectionSettings(compression=compression, groups_runs=True)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _boot_ms() -> int:
    return time.clock_gettime_ns(_STEADY_CLOCK) // 1_000_000

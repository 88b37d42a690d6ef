"""From an opened storage to a state machine that is ready to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vaylix_server.access import ReconcileAdmin, encode_access_commands
from vaylix_server.errors import StartupError
from vaylix_server.machine import SEMANTICS_VERSION, StateMachine, encode_semantics_version
from vaylix_server.passwords import hash_password, verify_password
from vaylix_server.state_snapshot import StateLoader
from vaylix_storage import Batch, BatchKind

if TYPE_CHECKING:
    from vaylix_server.clock import TimeKeeper
    from vaylix_server.settings import Settings
    from vaylix_storage.backend import Storage

__all__ = ["bootstrap", "rebuild"]

# What entries let expire or clear must not pile up before the first housekeeping.
_RECLAIMED_A_BATCH = 500


def rebuild(storage: Storage) -> StateMachine:
    """Return the state that the newest snapshot and the log behind it describe.

    Raises `StartupError` for content that is not ours, StorageError for what cannot be read.
    """
    machine = StateMachine(storage.keyspace)
    _load_snapshot(storage, machine)
    for batch in storage.log.read(machine.last_applied + 1):
        try:
            machine.replay(batch)
        except (msgspec.MsgspecError, AssertionError) as error:
            raise StartupError(
                "ENG-014",
                "WAL Deserialization Failure",
                f"entry {batch.first_index} of the log is not one that this server writes: {error}",
                "the directory belongs to another program; choose another one with --data-dir",
            ) from error
        storage.keyspace.expire_step(batch.timestamp_ms, _RECLAIMED_A_BATCH)
    assert machine.last_applied == storage.log.last_index
    return machine


def _load_snapshot(storage: Storage, machine: StateMachine) -> None:
    reader = storage.snapshots.open_current()
    if reader is None:
        return
    try:
        loader = StateLoader(machine, reader.meta)
        for section, plain in reader.chunks():
            loader.add(section, plain)
        loader.finish()
    except msgspec.MsgspecError as error:
        raise StartupError(
            "ENG-004",
            "Snapshot Deserialization Failure",
            f"the snapshot is not one that this server writes: {error}",
            "the directory belongs to another program; choose another one with --data-dir",
        ) from error
    finally:
        reader.close()


def bootstrap(
    settings: Settings, storage: Storage, machine: StateMachine, clock: TimeKeeper
) -> bool:
    """Write what a log must begin with, and what the configured administrator asks for.

    The well-known default pair never overwrites anything: it only serves to get in the first time.
    A start without a flag must not reset a password that somebody has chosen. Returns whether the
    configured pair opens the door.
    """
    if machine.semantics_version < SEMANTICS_VERSION:
        payload = encode_semantics_version(SEMANTICS_VERSION)
        _append(storage, machine, clock, BatchKind.SEMANTICS, payload)
    access = machine.access
    if settings.disable_auth:
        return True
    user = access.user(settings.user)
    fits = (
        user is not None
        and not user.disabled
        and verify_password(settings.password, user.password_hash)
    )
    if settings.uses_default_credentials and not access.is_empty:
        return fits
    if fits and access.managed_admin == settings.user:
        return True
    command = ReconcileAdmin(settings.user, hash_password(settings.password))
    _append(storage, machine, clock, BatchKind.ACCESS, encode_access_commands([command]))
    return True


def _append(
    storage: Storage, machine: StateMachine, clock: TimeKeeper, kind: BatchKind, payload: bytes
) -> None:
    batch = Batch.create(
        first_index=storage.log.last_index + 1,
        count=1,
        term=0,
        kind=kind,
        timestamp_ms=clock.now(),
        payload=payload,
    )
    storage.log.append((batch,))
    storage.log.sync()
    machine.replay(batch)

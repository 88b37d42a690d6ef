"""SAVE, SNAPSHOT, BACKUP and RESTORE in all their forms: what takes longer than a turn of the loop.

Each of them is a barrier on its connection: it sees everything that was sent before it, and what
stands behind it waits for its answer. Others go on: work on the state is done in slices of about a
millisecond on the loop, and files, digests and JSON belong to threads. (Parsing a dump of many
megabytes holds the interpreter for a part of that time.)
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import vaylix_protocol as vtp
from vaylix_protocol import ErrorCode, ErrorReply, Reply, error_reply
from vaylix_server.runs import Run
from vaylix_storage import CommandFailure, Result
from vaylix_storage.errors import BackupError, StorageError
from vaylix_storage.logical_backup import (
    BackupHeader,
    DocumentWriter,
    EntryLimits,
    SortedWalk,
    backup_pieces,
    check_document,
    parse_document,
    restore_batches,
    verify_document,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping

    from vaylix_server.machine import StateMachine
    from vaylix_server.snapshotter import Snapshotter
    from vaylix_server.walk_guard import WalkGuard
    from vaylix_server.write_path import WritePath
    from vaylix_storage.commands import Command
    from vaylix_storage.logical_backup import BackupDirectory, BackupDocument

__all__ = ["SlowCommands"]

_T = TypeVar("_T")
# Of the frame that has to carry an inline dump.
_REPLY_OVERHEAD_BYTES = 64
# What no request can name, or no reply can carry: clients could neither read nor remove it.
_LIMITS = EntryLimits(key_bytes_max=vtp.KEY_BYTES_MAX, value_bytes_max=vtp.VALUE_BYTES_MAX)
# What a batch of a restore takes, more or less: it goes by itself.
_RESTORE_BATCH_BYTES = 1024 * 1024


class SlowCommands:
    """Carries them out. All methods run on the loop's thread."""

    def __init__(
        self,
        *,
        machine: StateMachine,
        write_path: WritePath,
        snapshotter: Snapshotter,
        backups: BackupDirectory,
        walk: WalkGuard,
        wall_ms: Callable[[], int],
        new_id: Callable[[], bytes],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._machine = machine
        self._write_path = write_path
        self._snapshotter = snapshotter
        self._backups = backups
        self._walk = walk
        self._wall_ms = wall_ms
        self._new_id = new_id
        # Another restore would take the place of one that is being built.
        self._restore_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: Mapping[
            type[vtp.Command], Callable[[vtp.Command, str], Coroutine[None, None, Reply]]
        ] = {
            vtp.Save: self._save,
            vtp.Snapshot: self._save,
            vtp.Backup: self._backup,
            vtp.BackupTo: self._backup_to,
            vtp.BackupVerify: self._verify,
            vtp.BackupVerifyFrom: self._verify,
            vtp.Restore: self._restore,
            vtp.RestoreFrom: self._restore,
            vtp.RestoreCheck: self._check,
            vtp.RestoreCheckFrom: self._check,
        }

    def knows(self, command: vtp.Command) -> bool:
        """Say whether `start` is for this command."""
        return type(command) in self._handlers

    def start(self, command: vtp.Command, username: str, answer: Callable[[Reply], None]) -> None:
        """Carry out a command and call `answer` later with its reply."""
        task = self._loop.create_task(self._run(command, username, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Return when everything that was started is answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(
        self, command: vtp.Command, username: str, answer: Callable[[Reply], None]
    ) -> None:
        applied = asyncio.Event()
        self._write_path.when_applied(applied.set)
        await applied.wait()
        try:
            reply = await self._handlers[type(command)](command, username)
        except BackupError as error:
            reply = _engine_error(error, error.message)
        except StorageError as error:
            reply = _engine_error(error, str(error))
        except Exception as error:  # noqa: BLE001 - the client must not wait for ever.
            reply = error_reply(ErrorCode.SRV_005)
            problem = {"message": f"{type(command).__name__} failed", "exception": error}
            self._loop.call_exception_handler(problem)
        answer(reply)

    # Snapshots

    async def _save(self, command: vtp.Command, username: str) -> Reply:
        del command, username
        await self._snapshotter.take()
        return vtp.Ok()

    # Backups

    async def _backup(self, command: vtp.Command, username: str) -> Reply:
        """Answer with the dump, unless it cannot fit into a frame."""
        del command, username
        pieces: list[bytes] = []
        size_bytes = self._machine.keyspace.table.content_bytes
        if size_bytes > vtp.FRAME_BYTES_MAX:
            return error_reply(ErrorCode.SRV_013)
        async with self._walk.alone():
            writer, document = self._begin_dump()
            try:
                for piece in document:
                    pieces.append(piece)
                    if writer.byte_count > vtp.FRAME_BYTES_MAX - _REPLY_OVERHEAD_BYTES:
                        return error_reply(ErrorCode.SRV_013)
                    await asyncio.sleep(0)
            finally:
                document.close()
        return vtp.Value(b"".join(pieces))

    async def _backup_to(self, command: vtp.Command, username: str) -> Reply:
        del username
        assert isinstance(command, vtp.BackupTo)
        path = command.path
        async with self._walk.alone():
            file = await self._in_thread(lambda: self._backups.create(path))
            writer, document = self._begin_dump()
            try:
                for piece in document:
                    if piece:
                        await self._in_thread(partial(file.append, piece))
                    else:
                        await asyncio.sleep(0)
                sidecar = writer.sidecar()
                await self._in_thread(lambda: file.commit(sidecar))
            except BaseException:
                await self._in_thread(file.abandon)
                raise
            finally:
                document.close()
        return vtp.Ok()

    def _begin_dump(self) -> tuple[DocumentWriter, Generator[bytes, None, None]]:
        machine, now_ms = self._machine, self._write_path.read_time_ms()
        header = BackupHeader(created_at_ms=self._wall_ms(), source_sequence=machine.last_applied)
        writer = DocumentWriter(header)
        return writer, backup_pieces(writer, SortedWalk(machine.keyspace.begin_walk(), now_ms))

    async def _verify(self, command: vtp.Command, username: str) -> Reply:
        del username
        now_ms = self._write_path.read_time_ms()
        if isinstance(command, vtp.BackupVerifyFrom):
            path = command.path
            report = await self._in_thread(lambda: self._backups.verify(path, now_ms, _LIMITS))
        else:
            assert isinstance(command, vtp.BackupVerify)
            dump = command.dump.encode()
            report = await self._in_thread(lambda: verify_document(dump, now_ms, limits=_LIMITS))
        return vtp.Entries(tuple((name.encode(), text.encode()) for name, text in report.pairs()))

    # Restores

    async def _check(self, command: vtp.Command, username: str) -> Reply:
        del username
        now_ms = self._write_path.read_time_ms()
        document = await self._read(command)
        work = partial(check_document, document, now_ms, _LIMITS)
        return vtp.CountReply(await self._in_thread(work))

    async def _restore(self, command: vtp.Command, username: str) -> Reply:
        """Write the dump into the log, chunk by chunk; the last entry makes it count."""
        document = await self._read(command)
        now_ms = self._write_path.read_time_ms()
        restore_id = self._new_id()
        async with self._restore_lock, self._walk.quietly():
            batches = await self._in_thread(
                partial(
                    restore_batches,
                    document,
                    now_ms=now_ms,
                    restore_id=restore_id,
                    limits=_LIMITS,
                )
            )
            result: Result | ErrorReply = 0
            for commands in batches:
                result = await self._submit(commands, username)
                if isinstance(result, ErrorReply):
                    return result
                if isinstance(result, CommandFailure):
                    detail = "the restore was given up before it was complete; try again"
                    return error_reply(ErrorCode.ENG_011, detail=detail)
        assert isinstance(result, int)
        return vtp.CountReply(result)

    async def _read(self, command: vtp.Command) -> BackupDocument:
        if isinstance(command, vtp.RestoreFrom | vtp.RestoreCheckFrom):
            path = command.path
            return await self._in_thread(lambda: self._backups.read_checked(path))
        assert isinstance(command, vtp.Restore | vtp.RestoreCheck)
        dump = command.dump.encode()
        return await self._in_thread(lambda: parse_document(dump))

    async def _submit(self, commands: list[Command], username: str) -> Result | ErrorReply:
        """Log and apply commands; return the result of the last one, or why none was applied."""
        owner = _OneRun(self._loop)
        run = Run(owner, username)
        for command in commands:
            run.add_write(b"", command, _RESTORE_BATCH_BYTES // len(commands))
        self._write_path.submit(run)
        return await owner.outcome

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(None, work)


class _OneRun:
    """Owns a run that belongs to no session."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.outcome: asyncio.Future[Result | ErrorReply] = loop.create_future()

    def settle(self, run: Run, results: list[Result]) -> None:
        del run
        failed = (result for result in results if isinstance(result, CommandFailure))
        self.outcome.set_result(next(failed, results[-1]))

    def fail(self, run: Run, reply: ErrorReply) -> None:
        del run
        self.outcome.set_result(reply)

    def flush(self) -> None:
        pass


def _engine_error(error: StorageError, message: str) -> ErrorReply:
    prefix = "engine failure: " if error.code.startswith("ENG") else ""
    return ErrorReply(error.code, error.name, prefix + message)

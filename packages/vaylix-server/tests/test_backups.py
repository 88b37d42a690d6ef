"""BACKUP and RESTORE in all their forms, over the wire (commands 9.3, server section 11)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

import vaylix_protocol as vtp
from vaylix_protocol import CountReply, Entries, ErrorReply, NotFound, Ok, Reply, Value
from vaylix_server.errors import SettingsError
from vaylix_server.settings import Settings
from vaylix_server.testing import serve_in_memory
from vaylix_storage import RealVfs
from vaylix_storage.logical_backup import (
    BackupDirectory,
    BackupEntry,
    BackupHeader,
    DocumentWriter,
)


def code(reply: Reply) -> str:
    assert isinstance(reply, ErrorReply), reply
    return reply.code


def dump_of(reply: Reply) -> dict[str, object]:
    assert isinstance(reply, Value), reply
    document = json.loads(reply.data)
    assert isinstance(document, dict)
    return document


def dump(**values: bytes) -> str:
    """Return a document of version 2."""
    entries = [
        {
            "key": key,
            "value_base64": base64.b64encode(value).decode(),
            "expires_at_ms": None,
            "version": 7,
        }
        for key, value in sorted(values.items())
    ]
    header = {"version": 2, "created_at_ms": 1, "source_engine_version": 3, "source_sequence": 9}
    return json.dumps({**header, "entries": entries})


async def test_a_dump_holds_what_was_sent_before_it_and_nothing_behind(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        commands: list[vtp.Command] = [
            vtp.Set(b"b", b"\x00\xff"),
            vtp.Set(b"a", b"1"),
            vtp.Backup(),
            vtp.Set(b"c", b"late"),
            vtp.Get(b"c"),
        ]
        replies = await client.ask_all(commands)
        document = dump_of(replies[2])
        assert (replies[0], replies[3], replies[4]) == (Ok(), Ok(), Value(b"late"))
        assert list(document) == [
            "version",
            "created_at_ms",
            "source_engine_version",
            "source_sequence",
            "entries",
        ]
        assert document["entries"] == [
            {"key": "a", "value_base64": "MQ==", "expires_at_ms": None, "version": 1},
            {"key": "b", "value_base64": "AP8=", "expires_at_ms": None, "version": 1},
        ]


async def test_a_dump_that_no_frame_can_carry_is_refused(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        value = bytes(200_000)
        for number in range(33):
            assert await client.ask(vtp.Set(b"%d" % number, value)) == Ok()
        # Seven megabytes fit, but not in base64.
        assert code(await client.ask(vtp.Backup())) == "SRV-013"
        assert await client.ask(vtp.Ping(None)) == Value(b"PONG")
        assert await client.ask(vtp.BackupTo("big.json")) == Ok()
        assert await client.ask(vtp.RestoreCheckFrom("big.json")) == CountReply(33)


async def test_restore_replaces_everything_and_survives_a_restart(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"old", b"x"))
        replies = await client.ask_all(
            [vtp.Restore(dump(a=b"1", b=b"2")), vtp.Get(b"a"), vtp.Get(b"old"), vtp.Incr(b"a")]
        )
        assert replies == [CountReply(2), Value(b"1"), NotFound(), vtp.Integer(2)]
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        assert await client.ask_all([vtp.Get(b"a"), vtp.Get(b"b"), vtp.Get(b"old")]) == [
            Value(b"2"),
            Value(b"2"),
            NotFound(),
        ]


async def test_a_dump_of_many_chunks_is_restored_whole(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        for start in range(0, 5000, 250):
            pairs = tuple((b"key:%06d" % n, b"v%d" % n) for n in range(start, start + 250))
            assert await client.ask(vtp.MSet(pairs)) == Ok()
        assert await client.ask(vtp.BackupTo("all.json")) == Ok()
        assert await client.ask(vtp.Clear()) == Ok()
        before = server.server.services.write_path.commit_index
        assert await client.ask(vtp.RestoreFrom("all.json")) == CountReply(5000)
        assert server.server.services.write_path.commit_index > before + 2
        assert await client.ask(vtp.Get(b"key:004999")) == Value(b"v4999")


async def test_files_are_written_with_a_sidecar_and_verified(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
        assert await client.ask(vtp.BackupTo("nightly/one.json")) == Ok()
        backups = server.settings.backup_directory
        path = backups / "nightly" / "one.json"
        sidecar = json.loads(path.with_name("one.json.manifest.json").read_text())
        assert sidecar["byte_len"] == path.stat().st_size
        reply = await client.ask(vtp.BackupVerifyFrom("nightly/one.json"))
        assert isinstance(reply, Entries)
        assert dict(reply.pairs)[b"sha256"] == sidecar["sha256"].encode()
        inline = await client.ask(vtp.BackupVerify(path.read_text()))
        assert inline == reply
        assert await client.ask(vtp.RestoreCheckFrom(str(path))) == CountReply(1)
        path.write_text(path.read_text().replace("dg==", "eA=="))
        assert code(await client.ask(vtp.BackupVerifyFrom("nightly/one.json"))) == "SRV-029"
        assert code(await client.ask(vtp.RestoreFrom("nightly/one.json"))) == "SRV-029"
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")


async def test_the_backup_directory_can_lie_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    settings = Settings(data_dir=tmp_path / "data", backup_dir=elsewhere, port=0)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        assert await client.ask(vtp.BackupTo("x.json")) == Ok()
        assert (elsewhere / "x.json").exists()


@pytest.mark.parametrize("path", ["../x.json", "a/../../x.json", "/etc/passwd", "", "link.json"])
async def test_no_path_leads_out_of_the_directory(tmp_path: Path, path: str) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        backups = server.settings.backup_directory
        backups.mkdir(exist_ok=True)
        (backups / "link.json").symlink_to(tmp_path / "target")
        assert code(await client.ask(vtp.BackupTo(path))) == "SRV-027"
        assert not (tmp_path / "target").exists()
        assert await client.ask(vtp.Ping(None)) == Value(b"PONG")


async def test_no_backup_takes_the_place_of_another_one_with_its_sidecar(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        reply = await client.ask(vtp.BackupTo("c.manifest.json"))
        assert code(reply) == "ENG-011"
        assert isinstance(reply, ErrorReply)
        assert "c.manifest.json" in reply.message
        assert await client.ask(vtp.BackupTo("c")) == Ok()
        assert isinstance(await client.ask(vtp.BackupVerifyFrom("c")), Entries)


async def test_bad_dumps_change_nothing(tmp_path: Path) -> None:
    bad_base64 = dump(a=b"1").replace("MQ==", "MR==")
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
        for text, expected in (
            ("{", "ENG-004"),
            (dump(a=b"1").replace('"version": 2', '"version": 3'), "ENG-009"),
            (bad_base64, "ENG-004"),
        ):
            assert code(await client.ask(vtp.Restore(text))) == expected
            assert code(await client.ask(vtp.RestoreCheck(text))) == expected
        reply = await client.ask(vtp.Restore("{"))
        assert isinstance(reply, ErrorReply)
        assert reply.message.startswith("engine failure: snapshot deserialization failed: ")
        assert code(await client.ask(vtp.BackupVerify("{"))) == "SRV-029"
        assert code(await client.ask(vtp.RestoreFrom("missing.json"))) == "SRV-004"
        assert await client.ask(vtp.Get(b"k")) == Value(b"v")


KEY_BYTES_MAX = 2**16 - 1
VALUE_BYTES_MAX = 8 * 1024 * 1024 - 16 - 1 - 4


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        (
            {"a": b"", "k" * (KEY_BYTES_MAX + 1): b"1"},
            f"entry 1: key '{'k' * 40}'...: the key has 65536 bytes, 65535 are allowed",
        ),
        (
            {"a": b"", "huge": bytes(VALUE_BYTES_MAX + 1)},
            "entry 1: key 'huge': the value has 8388588 bytes, 8388587 are allowed",
        ),
    ],
    ids=["key", "value"],
)
async def test_what_no_client_could_read_or_remove_is_not_restored(
    tmp_path: Path, entries: dict[str, bytes], fault: str
) -> None:
    commands: list[vtp.Command] = [
        vtp.RestoreFrom("dump.json"),
        vtp.RestoreCheckFrom("dump.json"),
        vtp.BackupVerifyFrom("dump.json"),
    ]
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        await client.ask(vtp.Set(b"k", b"v"))
        text = put_dump(server.settings.backup_directory, entries)
        if len(text) < server.settings.max_value_bytes:
            commands += [vtp.Restore(text), vtp.RestoreCheck(text), vtp.BackupVerify(text)]
        before = server.server.services.write_path.commit_index
        for command in commands:
            reply = await client.ask(command)
            assert code(reply) == "ENG-004"
            assert isinstance(reply, ErrorReply)
            assert reply.message.endswith(fault)
        assert server.server.services.write_path.commit_index == before
        assert await client.ask(vtp.List()) == Entries(((b"k", b"v"),))


async def test_the_longest_key_and_value_are_restored_and_can_be_read_and_removed(
    tmp_path: Path,
) -> None:
    key, value = "k" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX)
    settings = Settings(data_dir=tmp_path, port=0, max_key_bytes=KEY_BYTES_MAX)
    async with serve_in_memory(tmp_path, settings) as server:
        client = await server.login()
        put_dump(server.settings.backup_directory, {"a": value, key: b"1"})
        assert isinstance(await client.ask(vtp.BackupVerifyFrom("dump.json")), Entries)
        assert await client.ask(vtp.RestoreCheckFrom("dump.json")) == CountReply(2)
        assert await client.ask(vtp.RestoreFrom("dump.json")) == CountReply(2)
        assert await client.ask(vtp.Get(b"a")) == Value(value)
        assert await client.ask(vtp.GetDel(b"a")) == Value(value)
        page = await client.ask(vtp.Scan(0, None, None))
        assert isinstance(page, vtp.ScanPage)
        assert page.keys == (key.encode(),)
        assert await client.ask(vtp.Del((key.encode(),))) == CountReply(1)


def put_dump(directory: Path, entries: dict[str, bytes]) -> str:
    """Write a dump and its sidecar, as no server of today would, and return it."""
    writer = DocumentWriter(BackupHeader(created_at_ms=1, source_sequence=9))
    rows = [BackupEntry(key.encode(), value, None, 7) for key, value in sorted(entries.items())]
    pieces = [writer.begin(), writer.feed(rows), writer.end()]
    BackupDirectory(directory, vfs=RealVfs()).write("dump.json", writer, pieces)
    return b"".join(pieces).decode()


async def test_a_client_that_leaves_does_not_stop_its_restore(tmp_path: Path) -> None:
    async with serve_in_memory(tmp_path) as server:
        client = await server.login()
        other = await server.login()
        client.send(vtp.Restore(dump(a=b"1")))
        client.close()
        while await other.ask(vtp.Get(b"a")) != Value(b"1"):
            pass


@pytest.mark.parametrize("place", [".", "..", "wal", "snapshots", "data/../wal", "link"])
def test_a_backup_directory_must_not_hold_live_files(tmp_path: Path, place: str) -> None:
    """BACKUP TO node.json would overwrite the identity of the server."""
    data = tmp_path / "data"
    (data / "wal").mkdir(parents=True)
    (data / "link").symlink_to(data / "wal")
    with pytest.raises(SettingsError, match="--backup-dir a backup could overwrite the data"):
        Settings(data_dir=data, backup_dir=data / place)


@pytest.mark.parametrize("place", ["backups", "backups/nightly", "../beside", "../data2"])
def test_a_backup_directory_may_be_beside_the_data_or_in_its_place(
    tmp_path: Path, place: str
) -> None:
    data = tmp_path / "data"
    assert Settings(data_dir=data, backup_dir=data / place).backup_directory == data / place

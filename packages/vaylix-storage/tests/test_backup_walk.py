"""A backup of a keyspace that goes on changing: consistent, sorted, in small steps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaylix_storage import Keyspace
from vaylix_storage import commands as c
from vaylix_storage.errors import BackupEncodingError, StorageBusyError
from vaylix_storage.logical_backup import (
    BackupEntry,
    BackupHeader,
    DocumentWriter,
    SortedWalk,
    backup_pieces,
    parse_document,
)
from vaylix_storage.logical_backup import _sorted_walk as module

NOW = 10_000


def all_entries(walk: SortedWalk) -> list[BackupEntry]:
    found: list[BackupEntry] = []
    while (entries := walk.step()) is not None:
        found += entries
    return found


def keyspace_of(entries: dict[bytes, int]) -> Keyspace:
    """Make a keyspace of keys with times to live; 0 means none."""
    keyspace = Keyspace()
    keyspace.apply(
        [
            c.Set(key, b"v" + key, c.SetOptions(ttl_ms=ttl_ms) if ttl_ms else None)
            for key, ttl_ms in entries.items()
        ],
        NOW,
        want_results=False,
    )
    return keyspace


@settings(max_examples=50, deadline=None)
@given(
    entries=st.dictionaries(st.binary(max_size=3), st.sampled_from([0, 5, 10, 11]), max_size=60),
    step_keys=st.integers(1, 5),
    run_keys=st.integers(1, 20),
)
def test_live_keys_come_in_the_order_of_their_bytes(
    entries: dict[bytes, int], step_keys: int, run_keys: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP_KEYS", step_keys)
        patch.setattr(module, "RUN_KEYS", run_keys)
        found = all_entries(SortedWalk(keyspace_of(entries).begin_walk(), NOW + 10))
    assert found == [
        BackupEntry(key, b"v" + key, NOW + ttl_ms if ttl_ms else None, 1)
        for key, ttl_ms in sorted(entries.items())
        if not ttl_ms or ttl_ms > 10
    ]


CHANGES = st.one_of(
    st.builds(c.Set, st.binary(max_size=1), st.binary(max_size=2)),
    st.builds(c.Del, st.lists(st.binary(max_size=1), max_size=3).map(tuple)),
    st.builds(c.Clear),
)


@settings(max_examples=50, deadline=None)
@given(
    entries=st.dictionaries(st.binary(max_size=1), st.just(0), max_size=60),
    changes=st.lists(CHANGES, max_size=30),
)
def test_a_backup_shows_the_keyspace_as_it_was_when_it_began(
    entries: dict[bytes, int], changes: list[c.Command]
) -> None:
    keyspace = keyspace_of(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP_KEYS", 3)
        patch.setattr(module, "RUN_KEYS", 4)
        walk = SortedWalk(keyspace.begin_walk(), NOW)
        found: list[BackupEntry] = []
        while (step := walk.step()) is not None:
            found += step
            if changes:
                keyspace.apply([changes.pop()], NOW, want_results=False)
    assert found == [BackupEntry(key, b"v" + key, None, 1) for key in sorted(entries)]


def test_large_values_end_a_step_early() -> None:
    keyspace = Keyspace()
    value = b"x" * (module.STEP_BYTES // 2)
    keyspace.apply([c.Set(b"%d" % n, value) for n in range(5)], NOW, want_results=False)
    walk = SortedWalk(keyspace.begin_walk(), NOW)
    sizes = []
    while (step := walk.step()) is not None:
        sizes.append(len(step))
    assert [size for size in sizes if size] == [2, 2, 1]


def test_a_document_is_made_in_pieces_and_gives_the_walk_back() -> None:
    keyspace = keyspace_of({b"b": 0, b"a": 5})
    writer = DocumentWriter(BackupHeader(created_at_ms=NOW, source_sequence=2))
    data = b"".join(backup_pieces(writer, SortedWalk(keyspace.begin_walk(), NOW)))
    assert parse_document(data).entries == [
        BackupEntry(b"a", b"va", NOW + 5, 1),
        BackupEntry(b"b", b"vb", None, 1),
    ]
    assert writer.sidecar().byte_len == len(data)
    keyspace.begin_walk().close()


def test_a_backup_that_is_given_up_or_fails_ends_its_walk() -> None:
    keyspace = keyspace_of({b"a": 0, b"\xff": 0})
    header = BackupHeader(created_at_ms=NOW, source_sequence=2)
    pieces = backup_pieces(DocumentWriter(header), SortedWalk(keyspace.begin_walk(), NOW))
    with pytest.raises(StorageBusyError):
        keyspace.begin_walk()
    next(pieces)
    pieces.close()
    with pytest.raises(BackupEncodingError):
        list(backup_pieces(DocumentWriter(header), SortedWalk(keyspace.begin_walk(), NOW)))
    walk = SortedWalk(keyspace.begin_walk(), NOW)
    walk.close()
    walk.close()
    assert walk.step() is None
    keyspace.begin_walk().close()

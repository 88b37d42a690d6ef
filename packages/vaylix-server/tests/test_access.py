"""Grants, rights and the managed administrator."""

from __future__ import annotations

import msgspec
import pytest

from vaylix_server.access import (
    AccessState,
    Grant,
    Permission,
    ReconcileAdmin,
    Rights,
    Role,
    User,
    decode_access_commands,
    decode_access_state,
    encode_access_commands,
    encode_access_state,
)
from vaylix_server.passwords import DUMMY_HASH, hash_password, verify_password


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("*", b"anything", True),
        ("*", b"", True),
        ("app:1", b"app:1", True),
        ("app:1", b"app:12", False),
        ("app:*", b"app:", True),
        ("app:*", b"ap", False),
        ("*:end", b"x:end", True),
        ("a*z", b"az", True),
        ("a*z", b"a", False),
        ("ab*ba", b"aba", False),
        ("ab*ba", b"abba", True),
        ("a*b*", b"axxb*", True),
        ("a*b*", b"axxbx", False),
        ("a?c", b"abc", False),
        ("*é", "café".encode(), True),
    ],
)
def test_key_patterns(pattern: str, key: bytes, matches: bool) -> None:
    rights = Rights([Grant(Permission.READ, pattern)])
    assert rights.permits_keys(Permission.READ, [key]) is matches
    assert not rights.permits_keys(Permission.WRITE, [key])


def test_every_key_must_be_covered_by_some_grant() -> None:
    rights = Rights([Grant(Permission.READ, "a*"), Grant(Permission.READ, "b*")])
    assert rights.permits_keys(Permission.READ, [b"a1", b"b1"])
    assert not rights.permits_keys(Permission.READ, [b"a1", b"c1"])


def test_an_empty_key_list_needs_the_global_permission() -> None:
    assert not Rights([Grant(Permission.READ, "a*")]).permits_keys(Permission.READ, [])
    assert Rights([Grant(Permission.READ, "*")]).permits_keys(Permission.READ, [])


@pytest.mark.parametrize(
    ("grant", "requested", "covered"),
    [
        ("*", "*", True),
        ("app:*", "app:*", True),
        ("app:*", "app:x*", True),
        ("app:*", "ap*", False),
        ("app:*", "*", False),
        ("app:1", "app:1", True),
        ("app:1", "app:12", False),
        ("app:**", "app:x", True),
        ("**", "*", False),
    ],
)
def test_scan_patterns(grant: str, requested: str, covered: bool) -> None:
    assert (
        Rights([Grant(Permission.READ, grant)]).permits_pattern(Permission.READ, requested)
        is covered
    )


def test_only_admin_on_everything_passes_every_check() -> None:
    narrow = Rights([Grant(Permission.ADMIN, "app:*")])
    assert not narrow.permits_keys(Permission.READ, [b"app:1"])
    wide = Rights([Grant(Permission.ADMIN, "*")])
    assert wide.permits_keys(Permission.READ, [b"app:1"])
    assert wide.permits_globally(Permission.BACKUP)
    assert wide.permits_pattern(Permission.READ, "*")


def test_two_stars_are_not_everything() -> None:
    assert not Rights([Grant(Permission.METRICS, "**")]).permits_globally(Permission.METRICS)


def test_permissions_are_shown_in_canonical_order() -> None:
    assert ",".join(Rights.everything().global_permissions) == (
        "read,write,admin,backup,restore,metrics,snapshot,clear,user_admin,role_admin"
    )


def test_the_first_entry_makes_the_administrator() -> None:
    state = AccessState()
    assert state.is_empty
    state.apply([ReconcileAdmin("ann", "hash")])
    rights = state.rights("ann")
    assert rights is not None
    assert rights.is_admin
    assert state.managed_admin == "ann"
    assert state.revision == 1


def test_a_new_name_retires_the_predecessor_and_the_default_account() -> None:
    state = AccessState()
    state.apply([ReconcileAdmin("vaylix", "h1"), ReconcileAdmin("ann", "h2")])
    assert state.user("vaylix") is None
    state.apply([ReconcileAdmin("bob", "h3")])
    assert state.user("ann") is None
    assert state.rights("bob") is not None


def test_the_same_name_changes_the_password_only() -> None:
    state = AccessState()
    state.apply([ReconcileAdmin("ann", "h1"), ReconcileAdmin("ann", "h2")])
    user = state.user("ann")
    assert user is not None
    assert user.password_hash == "h2"


def test_access_commands_survive_the_log() -> None:
    commands = [ReconcileAdmin("zoë", "hash"), ReconcileAdmin("", "")]
    assert decode_access_commands(encode_access_commands(commands)) == commands


def test_passwords_are_hashed_as_recorded_and_verified() -> None:
    phc = hash_password("vaylix", salt=bytes(range(16)))
    assert phc == (
        "$argon2id$v=19$m=19456,t=2,p=1$AAECAwQFBgcICQoLDA0ODw"
        "$csBTvWNtFybP1858GXEL9i4cHipJRatw4dDUARfT0AE"
    )
    assert verify_password("vaylix", phc)
    assert not verify_password("Vaylix", phc)
    assert not verify_password("vaylix", "not a hash")
    assert not verify_password("", DUMMY_HASH)
    assert hash_password("x") != hash_password("x")


def test_a_snapshot_of_the_state_gives_it_back() -> None:
    state = AccessState()
    state.apply([ReconcileAdmin("root", "hash"), ReconcileAdmin("other", "hash 2")])
    roles = {**state.roles, "reader": Role(frozenset({Grant(Permission.READ, "a:*")}))}
    users = {**state.users, "ann": User("hash 3", frozenset({"reader"}), disabled=True)}
    state = AccessState(users=users, roles=roles, managed_admin="other", revision=2)

    section = encode_access_state(state)
    copy = decode_access_state(section)

    assert encode_access_state(copy) == section
    assert (copy.users, copy.roles, copy.managed_admin, copy.revision) == (
        state.users,
        state.roles,
        "other",
        2,
    )


def test_what_is_not_a_section_is_refused() -> None:
    for junk in (b"", b"\x90", b"junk"):
        with pytest.raises(msgspec.MsgspecError):
            decode_access_state(junk)

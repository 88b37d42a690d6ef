"""Texts become settings, or a message that says what is wrong; each flag: `test_flags.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vaylix_server.errors import SettingsError
from vaylix_server.settings import Number, Settings, flag_of, settings_from_text, variable_of


def test_defaults() -> None:
    settings = settings_from_text({}, {})
    assert settings == Settings()
    assert settings.port == 9173
    assert settings.wal_sync == "sync"
    assert settings.requests_per_second is None
    assert settings.uses_default_credentials


def test_the_flag_wins_over_the_variable_and_the_variable_over_the_default() -> None:
    assert settings_from_text({}, {"VAYLIX_PORT": "1"}).port == 1
    assert settings_from_text({"port": "2"}, {"VAYLIX_PORT": "1"}).port == 2


@pytest.mark.parametrize("text", ["", " 1", "1_0", "-1", "+1", "0x1", "65536", "9" * 30, "\u0661"])
def test_numbers_are_strict(text: str) -> None:
    with pytest.raises(SettingsError, match=r"VAYLIX_PORT.*whole number from 0 to 65535"):
        settings_from_text({}, {"VAYLIX_PORT": text})


@pytest.mark.parametrize("text", ["1", "yes", "True", "", "TRUE"])
def test_a_switch_variable_is_exactly_true_or_false(text: str) -> None:
    with pytest.raises(SettingsError, match="VAYLIX_DISABLE_AUTH: expected true or false"):
        settings_from_text({}, {"VAYLIX_DISABLE_AUTH": text})
    assert settings_from_text({}, {"VAYLIX_DISABLE_AUTH": "true"}).disable_auth


def test_a_choice_names_the_words_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'never' for --wal-sync.*buffered, flush, sync"):
        settings_from_text({"wal_sync": "never"}, {})


def test_a_burst_needs_a_rate() -> None:
    with pytest.raises(SettingsError, match="--requests-per-second"):
        settings_from_text({"request_burst": "5"}, {})
    assert settings_from_text({"requests_per_second": "5"}, {}).burst == 10


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wal_sync", "sync"),
        ("wal_archive_dir", "archive"),
        ("wal_retain_seconds", "1"),
        ("snapshot_retain", "2"),
        ("key_file", "key"),
        ("key_provider", "file"),
    ],
)
def test_what_only_a_disk_has_a_use_for_is_refused_beside_memory(name: str, text: str) -> None:
    memory = {"storage_backend": "memory"}
    with pytest.raises(SettingsError, match=f"{flag_of(name)} has no meaning.*memory"):
        settings_from_text(memory | {name: text}, {})
    with pytest.raises(SettingsError, match=f"{variable_of(name)} has no meaning.*memory"):
        settings_from_text(memory, {variable_of(name): text})
    settings_from_text({name: text}, {})
    settings_from_text(memory | {"snapshot_wal_bytes": "1", "backup_dir": "b"}, {})


@pytest.mark.parametrize(
    "place", [".", "wal", "snapshots/x", "backups/archive", "../link/wal", "new/x"]
)
def test_an_archive_must_not_lie_among_the_live_files(tmp_path: Path, place: str) -> None:
    data = tmp_path / "data"
    (data / "wal").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(SettingsError, match="--wal-archive-dir must not lie among"):
        Settings(data_dir=data, wal_archive_dir=data / place)


@pytest.mark.parametrize("place", ["archive", "data2", "data.archive/x", "data/archive"])
def test_an_archive_may_lie_beside_the_data(tmp_path: Path, place: str) -> None:
    archive = tmp_path / place
    assert Settings(data_dir=tmp_path / "data", wal_archive_dir=archive).wal_archive_dir == archive


def test_a_refused_password_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from_text({"password": "secret", "password_file": "also"}, {})
    assert "secret" not in str(caught.value)
    assert "--password and --password-file exclude each other" in str(caught.value)


def test_the_password_file_gives_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse\r\nignored\n", encoding="utf-8")
    assert settings_from_text({"password_file": str(file)}, {}).password == "correct horse"


@pytest.mark.parametrize("content", [b"", b"\nlate", b"\xff"])
def test_a_password_file_without_a_password_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="password file"):
        settings_from_text({"password_file": str(file)}, {})
    with pytest.raises(SettingsError, match="cannot read"):
        settings_from_text({"password_file": str(tmp_path / "missing")}, {})


@pytest.mark.parametrize("setting", dataclasses.fields(Settings), ids=lambda f: f.name)
def test_every_default_lies_within_its_own_bounds(setting: dataclasses.Field[object]) -> None:
    kind = setting.metadata["kind"]
    assert setting.metadata["help"].endswith(".")
    assert variable_of(setting.name).startswith("VAYLIX_")
    if isinstance(kind, Number) and setting.default is not None:
        assert kind.parse(str(setting.default)) == setting.default

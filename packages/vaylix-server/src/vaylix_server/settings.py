"""Every setting of the server: name, unit, default, limits and what it does, in one place.

A field `max_key_bytes` is the flag `--max-key-bytes` and the variable `VAYLIX_MAX_KEY_BYTES`. The
command line wins over the environment, the environment over the default (server spec 1.1).
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vaylix_server.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Choice", "Number", "PathText", "Settings", "Switch", "Text", "settings_from_text"]

# What only a backend on a disk has a use for; beside `memory` they would promise what it is not.
_OF_A_DISK = (
    "wal_sync",
    "wal_segment_size_bytes",
    "wal_retain_segments",
    "wal_retain_bytes",
    "wal_retain_seconds",
    "wal_archive_dir",
    "snapshot_retain",
    "snapshot_retain_seconds",
    "key_provider",
    "key_file",
)
U16 = 2**16 - 1
U32 = 2**32 - 1
U64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Text:
    """Any text in UTF-8, taken as it is; at least `minimum` characters."""

    minimum: int = 0

    def parse(self, text: str) -> object:
        """Return the value of `text`; ValueError says what would be accepted."""
        if len(text) < self.minimum:
            raise ValueError("expected a text that is not empty")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("expected UTF-8") from None
        return text


@dataclass(frozen=True, slots=True)
class PathText:
    """A path, relative to the working directory of the server."""

    def parse(self, text: str) -> object:
        """Return the value of `text`; ValueError says what would be accepted."""
        if not text:
            raise ValueError("expected a path")
        return Path(text)


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number between two bounds, both included."""

    minimum: int
    maximum: int

    def parse(self, text: str) -> object:
        """Return the value of `text`; ValueError says what would be accepted."""
        expected = f"expected a whole number from {self.minimum} to {self.maximum}"
        # int() alone would take spaces, underscores and digits of other scripts.
        if not (text.isascii() and text.isdigit()) or len(text) > len(str(U64)):
            raise ValueError(expected)
        value = int(text)
        if not self.minimum <= value <= self.maximum:
            raise ValueError(expected)
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few lower-case words."""

    words: tuple[str, ...]

    def parse(self, text: str) -> object:
        """Return the value of `text`; ValueError says what would be accepted."""
        if text not in self.words:
            raise ValueError(f"expected one of {', '.join(self.words)}")
        return text


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off: a bare flag, or a variable that is exactly `true` or `false`."""

    def parse(self, text: str) -> object:
        """Return the value of `text`; ValueError says what would be accepted."""
        if text not in {"true", "false"}:
            raise ValueError("expected true or false")
        return text == "true"


Kind = Text | PathText | Number | Choice | Switch


def _setting(kind: Kind, help_text: str) -> dict[str, object]:
    return {"kind": kind, "help": help_text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A complete, validated configuration. Construction raises `SettingsError` on nonsense."""

    bind: str = field(
        default="127.0.0.1",
        metadata=_setting(Text(1), "Host or address to listen on."),
    )
    port: int = field(
        default=9173,
        metadata=_setting(Number(0, U16), "Port to listen on; 0 picks a free one and logs it."),
    )
    transport: str = field(
        default="tcp",
        metadata=_setting(Text(1), "Transport to listen with, by the name a plugin gave it."),
    )
    data_dir: Path = field(
        default=Path("default.vaylix"),
        metadata=_setting(PathText(), "Directory of all durable state; created when absent."),
    )
    storage_backend: str = field(
        default="wal",
        metadata=_setting(Text(1), "Storage backend, by the name a plugin gave it."),
    )
    wal_sync: str = field(
        default="sync",
        metadata=_setting(
            Choice(("buffered", "flush", "sync")),
            "When a write is acknowledged: `sync` after fdatasync (survives a power cut), `flush` "
            "once the kernel has it (survives a crash of the process), `buffered` likewise, with "
            "the kernel left to choose when to write.",
        ),
    )
    wal_segment_size_bytes: int = field(
        default=67_108_864,
        metadata=_setting(Number(4096, 2**40), "Size at which a new log segment is begun."),
    )
    wal_retain_segments: int = field(
        default=128,
        metadata=_setting(
            Number(0, U32), "Ended log segments that are kept behind the newest snapshot, at most."
        ),
    )
    wal_retain_bytes: int | None = field(
        default=None,
        metadata=_setting(Number(0, 2**62), "The same in bytes; unset means any number."),
    )
    wal_retain_seconds: int | None = field(
        default=None,
        metadata=_setting(Number(0, U32), "The same by the age of their newest entry."),
    )
    wal_archive_dir: Path | None = field(
        default=None,
        metadata=_setting(
            PathText(), "Directory that segments and snapshots are copied to before they go."
        ),
    )
    snapshot_interval_seconds: int | None = field(
        default=None,
        metadata=_setting(Number(1, U32), "Period of snapshots; unset means none by the clock."),
    )
    snapshot_wal_bytes: int = field(
        default=268_435_456,
        metadata=_setting(
            Number(0, 2**62), "Growth of the log that asks for a snapshot; 0 means never."
        ),
    )
    snapshot_retain: int = field(
        default=2,
        metadata=_setting(Number(1, 1000), "Snapshots that are kept, at most."),
    )
    snapshot_retain_seconds: int | None = field(
        default=None,
        metadata=_setting(Number(0, U32), "The same by their age; the newest always stays."),
    )
    expiration_sweep_interval_seconds: int | None = field(
        default=None,
        metadata=_setting(
            Number(1, U32),
            "Period after which dead keys leave memory in the background; unset means at once.",
        ),
    )
    backup_dir: Path | None = field(
        default=None,
        metadata=_setting(
            PathText(), "Directory of logical backups; `backups` in the data directory when unset."
        ),
    )
    key_provider: str = field(
        default="file",
        metadata=_setting(Choice(("file", "env")), "Who wraps the storage keys."),
    )
    key_file: Path | None = field(
        default=None,
        metadata=_setting(
            PathText(), "Key file of the provider `file`; `storage.key` in the data directory."
        ),
    )
    write_ack_mode: str = field(
        default="local",
        metadata=_setting(Text(1), "When a write is answered, by the name a plugin gave it."),
    )
    user: str = field(
        default="vaylix",
        metadata=_setting(Text(1), "Name of the administrator that the configuration manages."),
    )
    password: str = field(
        default="vaylix",
        metadata=_setting(Text(1), "Its password; prefer --password-file, argv is visible to all."),
    )
    password_file: Path | None = field(
        default=None,
        metadata=_setting(PathText(), "File whose first line is the password."),
    )
    disable_auth: bool = field(
        default=False,
        metadata=_setting(Switch(), "No authentication and no permission checks."),
    )
    disable_compression: bool = field(
        default=False,
        metadata=_setting(Switch(), "Never negotiate zstd."),
    )
    max_connections: int = field(
        default=256,
        metadata=_setting(Number(1, 65_536), "Sessions served at once; more are turned away."),
    )
    handshake_timeout_seconds: int = field(
        default=10,
        metadata=_setting(Number(1, 3600), "Longest wait for the client hello."),
    )
    idle_timeout_seconds: int | None = field(
        default=None,
        metadata=_setting(
            Number(1, U32), "Longest wait for one complete request; unset means for ever."
        ),
    )
    max_request_payload_bytes: int = field(
        default=1_048_576,
        metadata=_setting(Number(1, 8_388_608), "Largest request payload; above, the door shuts."),
    )
    max_key_bytes: int = field(
        default=1024,
        metadata=_setting(Number(1, 65_535), "Longest key, name or pattern."),
    )
    max_value_bytes: int = field(
        default=262_144,
        metadata=_setting(Number(1, 8_388_608), "Longest value, password or path."),
    )
    max_keys_per_batch: int = field(
        default=256,
        metadata=_setting(Number(1, 65_535), "Most keys in one MGET, DEL or MSET."),
    )
    max_transaction_queue_len: int = field(
        default=128,
        metadata=_setting(
            Number(2, 65_536), "Slots of a transaction queue, of which MULTI takes the first."
        ),
    )
    transaction_max_seconds: int = field(
        default=30,
        metadata=_setting(Number(1, U32), "Lifetime of an open transaction."),
    )
    requests_per_second: int | None = field(
        default=None,
        metadata=_setting(
            Number(1, U32), "Requests per second and connection; unset means unlimited."
        ),
    )
    request_burst: int | None = field(
        default=None,
        metadata=_setting(
            Number(1, U32), "Requests that may come at once; twice the rate when unset."
        ),
    )
    auth_failure_window_seconds: int = field(
        default=300,
        metadata=_setting(Number(1, U32), "How long a failed login counts."),
    )
    auth_failure_limit: int = field(
        default=5,
        metadata=_setting(
            Number(1, U32), "Failures that lock a user from one address; three times it, anywhere."
        ),
    )
    auth_lockout_seconds: int = field(
        default=900,
        metadata=_setting(Number(1, U32), "How long a lock lasts."),
    )
    slow_command_threshold_ms: int = field(
        default=100,
        metadata=_setting(Number(0, U64), "From when a command counts as slow; 0 turns it off."),
    )
    log_requests: bool = field(
        default=False,
        metadata=_setting(Switch(), "One log line for each accepted request."),
    )
    disable_plugins: str = field(
        default="",
        metadata=_setting(Text(), "Plugins not to load, by name, comma separated."),
    )
    strict_plugins: bool = field(
        default=False,
        metadata=_setting(Switch(), "Refuse to start when a plugin cannot be loaded."),
    )

    def __post_init__(self) -> None:
        """Refuse combinations that contradict each other."""
        if self.key_provider != "file" and self.key_file is not None:
            raise SettingsError("--key-file has no meaning with another --key-provider than file")
        if self.request_burst is not None and self.requests_per_second is None:
            raise SettingsError("--request-burst has no meaning without --requests-per-second")
        if not (self.user and self.password and self.bind):
            raise SettingsError("--user, --password and --bind must not be empty")
        if len(self.user.encode()) > self.max_key_bytes:
            raise SettingsError("--user is longer than --max-key-bytes, so nobody could log in")
        if len(self.password.encode()) > self.max_value_bytes:
            raise SettingsError("the password is longer than --max-value-bytes allows")
        if _holds_live_files(self.backup_directory, self.data_dir):
            raise SettingsError(
                "in this --backup-dir a backup could overwrite the data; choose a directory beside "
                "--data-dir, or `backups` in it"
            )
        archive = self.wal_archive_dir
        if archive is not None and _lies_among_live_files(archive, self.data_dir, "archive"):
            raise SettingsError(
                "--wal-archive-dir must not lie among the files that it keeps copies of; choose a "
                "directory beside --data-dir, better on another volume, or `archive` in it"
            )

    @property
    def backup_directory(self) -> Path:
        """Where logical backups lie."""
        return self.data_dir / "backups" if self.backup_dir is None else self.backup_dir

    @property
    def burst(self) -> int:
        """Capacity of the token bucket, in requests."""
        return self.request_burst or 2 * (self.requests_per_second or 1)

    @property
    def uses_default_credentials(self) -> bool:
        """Whether the configured pair is the well-known one."""
        return (self.user, self.password) == ("vaylix", "vaylix")


def _holds_live_files(backups: Path, data: Path) -> bool:
    """Say whether a path in `backups` could be one of the data directory's own files."""
    return _lies_in(data, backups) or _lies_among_live_files(backups, data, "backups")


def _lies_among_live_files(path: Path, data: Path, own_name: str) -> bool:
    """Say whether a path is in the data directory, but not in what may have that name there."""
    own_place = Path(os.path.realpath(data)) / own_name
    return _lies_in(path, data) and not Path(os.path.realpath(path)).is_relative_to(own_place)


def _lies_in(path: Path, directory: Path) -> bool:
    """Say whether a path, its links followed, is a directory or is in it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


def flag_of(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment variable of a field."""
    return "VAYLIX_" + name.upper()


def settings_from_text(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Build the settings from texts: `flags` by field name, `environ` by variable.

    Raises `SettingsError` naming the flag or variable, its value, and what would be accepted. A
    password file is read here; trailing line ends do not count.
    """
    values: dict[str, object] = {}
    given_by: dict[str, str] = {}
    for setting in dataclasses.fields(Settings):
        variable = variable_of(setting.name)
        sources = ((flags, setting.name, flag_of(setting.name)), (environ, variable, variable))
        for texts, key, source in sources:
            if key not in texts:
                continue
            shown = "***" if setting.name == "password" else repr(texts[key])
            try:
                values[setting.name] = setting.metadata["kind"].parse(texts[key])
            except ValueError as error:
                raise SettingsError(f"invalid value {shown} for {source}: {error}") from None
            given_by[setting.name] = source
            break
    if values.get("storage_backend") == "memory":
        for name in _OF_A_DISK:
            if name in given_by:
                raise SettingsError(
                    f"{given_by[name]} has no meaning with --storage-backend memory, which keeps "
                    "nothing; leave one of them out"
                )
    if "password_file" in values:
        if "password" in values:
            raise SettingsError(
                f"{given_by['password']} and {given_by['password_file']} exclude each other"
            )
        values["password"] = _read_password(Path(str(values["password_file"])))
    return Settings(**values)  # type: ignore[arg-type]  # Each value was parsed by its own kind.


def _read_password(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the password file {path}: {error}") from None
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise SettingsError(f"the password file {path} is empty")
    return password

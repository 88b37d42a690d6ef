"""Who may read what is on the disk: nobody but the user of the process.

Everything in a data directory is made with 0600 or 0700, but a copy, a restore from a backup or a
careful hand may have changed that, and a key file may lie anywhere. Whoever can read both the key
file and the data can read everything, so what is too open is found at every start, closed where it
is ours, and reported in any case.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vaylix_storage._catalog import parse_segment_name
from vaylix_storage._manifest import parse_snapshot_name
from vaylix_storage._names import STAGING_SUFFIX
from vaylix_storage._vfs import DIRECTORY_MODE, FILE_MODE, Vfs
from vaylix_storage.errors import FileSystemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["ModeFinding", "find_loose_modes", "tighten_modes"]

# What lets the group or others in.
_OPEN_BITS: Final = 0o077
_OWN_NAMES: Final = frozenset(
    {
        "LOCK",
        "UNFINISHED",
        "audit.log",
        "keyring.bin",
        "maintenance.mode",
        "manifest.bin",
        "migration.json",
        "node.json",
        "restore.json",
        "storage.key",
        "storage.key.new",
        "wal.begun",
    }
)
_BACKUPS_NAME: Final = "backups"


class ModeFinding(msgspec.Struct, frozen=True):
    """A file or directory that others may use. `mode` is as found, `wanted` is the widest good one.

    `is_own` says whether it belongs to the user of this process, so that it can be closed.
    """

    path: Path
    mode: int
    wanted: int
    is_own: bool

    @property
    def remedy(self) -> str:
        """The command that closes it."""
        return f"chmod {self.mode & self.wanted:o} {shlex.quote(str(self.path))}"

    def __str__(self) -> str:
        whose = "" if self.is_own else ", and belongs to another user"
        return (
            f"{self.path} has mode {self.mode:04o}, which lets other users in{whose}; "
            f"close it: {self.remedy}"
        )


def find_loose_modes(
    directory: Path, *, vfs: Vfs, others: Iterable[Path] = ()
) -> list[ModeFinding]:
    """Return what of ours in a directory, itself included, lets others in; changes nothing.

    What else lies there is not looked at. `others` are further files, such as a key file that lies
    elsewhere; symbolic links are followed there, but not in the directory. What does not exist is
    passed over. Raises FileSystemError.
    """
    findings = []
    paths = dict.fromkeys((*_own_paths(directory, vfs), *others))
    for path in paths:
        try:
            mode = vfs.mode(path)
            if mode & _OPEN_BITS:
                wanted = DIRECTORY_MODE if vfs.is_directory(path) else FILE_MODE
                findings.append(ModeFinding(path, mode, wanted, vfs.is_own(path)))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise FileSystemError(f"cannot read its mode: {error}", path=path) from error
    return findings


def tighten_modes(findings: Iterable[ModeFinding], *, vfs: Vfs) -> list[ModeFinding]:
    """Close what is ours; return what is still open, because it is not ours or cannot be changed.

    No right is given that was not there before.
    """
    left = []
    for finding in findings:
        if not finding.is_own:
            left.append(finding)
            continue
        try:
            vfs.set_mode(finding.path, finding.mode & finding.wanted)
        except FileNotFoundError:
            continue
        except OSError:
            # A volume that is read only, or has no modes. The caller warns, and goes on.
            left.append(finding)
    return left


def _own_paths(directory: Path, vfs: Vfs) -> Iterator[Path]:
    """Yield a data directory, and what in it has one of our names, with all backups."""
    yield directory
    yield from _files(directory, vfs, lambda name: name in _OWN_NAMES)
    for name, is_own in (("wal", _is_segment), ("snapshots", _is_snapshot)):
        if vfs.is_directory(directory / name):
            yield directory / name
            yield from _files(directory / name, vfs, is_own)
    waiting = [directory / _BACKUPS_NAME] if vfs.is_directory(directory / _BACKUPS_NAME) else []
    while waiting:
        path = waiting.pop()
        yield path
        yield from _files(path, vfs, lambda _: True)
        waiting.extend(path / name for name in _names(path, vfs.list_subdirectories))


def _is_segment(name: str) -> bool:
    return name == "next" or parse_segment_name(name) is not None


def _is_snapshot(name: str) -> bool:
    return parse_snapshot_name(name) is not None


def _files(directory: Path, vfs: Vfs, is_own: Callable[[str], bool]) -> Iterator[Path]:
    for name in _names(directory, vfs.list_directory):
        if is_own(name.removesuffix(STAGING_SUFFIX)):
            yield directory / name


def _names(path: Path, look: Callable[[Path], list[str]]) -> list[str]:
    try:
        return look(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileSystemError(f"cannot be listed: {error}", path=path) from error

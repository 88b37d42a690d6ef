"""Finds plugins, loads them one by one, and turns what they register into plain typed tables.

The features of the server itself come through the very same hooks; they are registered first, and
so have no privilege but being there. Nothing outside of this module touches pluggy.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Protocol, TypeVar

import pluggy

from vaylix_server import hookspecs
from vaylix_server.builtin import BUILTIN_PLUGINS
from vaylix_server.entry import EXIT_INTERRUPTED
from vaylix_server.errors import PluginError, SettingsError
from vaylix_server.interfaces import AckMode, StorageBackend, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


__all__ = ["ENTRY_POINT_GROUP", "PluginInfo", "Plugins", "load_plugins"]

ENTRY_POINT_GROUP = "vaylix.server"
_GIVEN = "given by the caller"
# What comes from us or from the caller must work; an installed guest is left out when it does not.
_OURS = ("vaylix-server", _GIVEN)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Record = TypeVar("Record", bound=_Named)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin as found: `problem` is None when it is in use."""

    name: str
    distribution: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Plugins:
    """Everything that plugins registered, by name."""

    transports: dict[str, Transport]
    storage_backends: dict[str, StorageBackend]
    ack_modes: dict[str, AckMode]
    found: tuple[PluginInfo, ...]

    def transport(self, name: str) -> Transport:
        """Return the transport of that name; raises `SettingsError` naming those there are."""
        return _choose("--transport", name, self.transports)

    def storage_backend(self, name: str) -> StorageBackend:
        """Return the storage backend of that name; raises `SettingsError` likewise."""
        return _choose("--storage-backend", name, self.storage_backends)

    def ack_mode(self, name: str) -> AckMode:
        """Return the ack mode of that name; raises `SettingsError` likewise."""
        return _choose("--write-ack-mode", name, self.ack_modes)


def load_plugins(
    *,
    strict: bool = False,
    disabled: Iterable[str] = (),
    extra: Sequence[object] = (),
    installed: Callable[[], Iterable[EntryPoint]] = lambda: entry_points(group=ENTRY_POINT_GROUP),
) -> Plugins:
    """Register built-ins, `extra` objects and installed plugins, and collect their records.

    A plugin that cannot be loaded is left out with a `PluginInfo` that says why; when `strict`, it
    raises `PluginError` instead. Two records of one kind and name always do.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT_NAME)
    manager.add_hookspecs(hookspecs)
    found = []
    for name, builtin in BUILTIN_PLUGINS:
        _register(manager, name, builtin)
        found.append(PluginInfo(name, "vaylix-server"))
    for plugin in extra:
        name = getattr(plugin, "__name__", type(plugin).__name__)
        _register(manager, name, plugin)
        found.append(PluginInfo(name, _GIVEN))
    blocked = frozenset(disabled)
    found += [
        _load_entry(manager, entry, blocked=blocked, strict=strict)
        for entry in sorted(installed(), key=lambda entry: entry.name)
    ]
    trusted = {info.name for info in found if strict or info.distribution in _OURS}
    problems: dict[str, str] = {}

    def collect(hook: str, kind: type[Record]) -> dict[str, Record]:
        return _by_name(list(_records(manager, hook, kind, trusted, problems)), kind.__name__)

    return Plugins(
        transports=collect("vaylix_transports", Transport),
        storage_backends=collect("vaylix_storage_backends", StorageBackend),
        ack_modes=collect("vaylix_ack_modes", AckMode),
        found=tuple(replace(info, problem=problems.get(info.name, info.problem)) for info in found),
    )


def _records(
    manager: pluggy.PluginManager,
    hook: str,
    kind: type[Record],
    trusted: set[str],
    problems: dict[str, str],
) -> Iterator[Record]:
    """Call one implementation after the other, so that each answers for itself alone."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        name = implementation.plugin_name
        try:
            records = list(implementation.function())
            for record in records:
                if not isinstance(record, kind):
                    raise TypeError(f"{record!r} is no {kind.__name__}")  # noqa: TRY301
        except BaseException as error:
            _pass_on_interruption(error)
            problem = f"{hook} failed: {type(error).__name__}: {error}"
            if name in trusted:
                raise PluginError(f"plugin {name}: {problem}") from error
            problems[name] = problem
        else:
            yield from records


def _load_entry(
    manager: pluggy.PluginManager, entry: EntryPoint, *, blocked: frozenset[str], strict: bool
) -> PluginInfo:
    distribution = entry.dist.name if entry.dist is not None else "unknown distribution"
    if entry.name in blocked:
        return PluginInfo(entry.name, distribution, "disabled by --disable-plugins")
    try:
        _register(manager, entry.name, entry.load())
    except BaseException as error:  # A guest may fail in any way; it must not fail us.
        _pass_on_interruption(error)
        problem = f"{type(error).__name__}: {error}"
        if strict:
            raise PluginError(
                f"plugin {entry.name} of {distribution} cannot be loaded: {problem}; "
                f"repair or uninstall it, or name it in --disable-plugins"
            ) from error
        return PluginInfo(entry.name, distribution, problem)
    return PluginInfo(entry.name, distribution)


def _pass_on_interruption(error: BaseException) -> None:
    """Raise the error again if it comes from Ctrl-C, which may be pressed while a guest loads."""
    ends_us = isinstance(error, SystemExit) and error.code == EXIT_INTERRUPTED
    if ends_us or isinstance(error, KeyboardInterrupt):
        raise error


def _register(manager: pluggy.PluginManager, name: str, plugin: object) -> None:
    """Register one plugin, or leave no trace of it and raise `PluginError`."""
    manager.register(plugin, name)
    try:
        # An unknown hook name would otherwise register silently and never be called.
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        manager.unregister(plugin)
        raise PluginError(str(error)) from error
    for caller in manager.get_hookcallers(plugin) or ():
        for implementation in caller.get_hookimpls():
            is_ours = implementation.plugin is plugin
            if is_ours and inspect.iscoroutinefunction(implementation.function):
                manager.unregister(plugin)
                # pluggy would hand out the coroutine itself, and nobody would await it.
                raise PluginError(f"hook {caller.name} must not be a coroutine function")


def _by_name(records: Iterable[Record], kind: str) -> dict[str, Record]:
    table: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.name):
        if record.name in table:
            raise PluginError(
                f"two plugins register {kind} {record.name!r}; disable one of them with "
                f"--disable-plugins"
            )
        table[record.name] = record
    return table


def _choose(flag: str, name: str, table: dict[str, Record]) -> Record:
    if name not in table:
        raise SettingsError(
            f"invalid value {name!r} for {flag}: expected one of {', '.join(table)}"
        )
    return table[name]

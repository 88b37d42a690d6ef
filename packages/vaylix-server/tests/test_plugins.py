"""Built-ins and guests come through the same hooks; a broken guest harms nobody but itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from vaylix_server.errors import PluginError, SettingsError
from vaylix_server.hookspecs import hookimpl
from vaylix_server.interfaces import AckMode, Progress
from vaylix_server.plugins import PluginInfo, load_plugins


def committed(progress: Progress) -> int:
    return progress.commit


class Guest:
    @hookimpl
    def vaylix_ack_modes(self) -> list[AckMode]:
        return [AckMode(name="committed", acknowledged=committed)]


class Rival:
    @hookimpl
    def vaylix_ack_modes(self) -> list[AckMode]:
        return [AckMode(name="local", acknowledged=committed)]


class Misspelt:
    @hookimpl
    def vaylix_ack_mods(self) -> list[AckMode]:
        return []


class Asynchronous:
    @hookimpl
    async def vaylix_ack_modes(self) -> list[AckMode]:
        return []


def entry(name: str, load: Callable[[], object]) -> EntryPoint:
    found = SimpleNamespace(name=name, load=load, dist=SimpleNamespace(name=f"vaylix-{name}"))
    return cast("EntryPoint", found)


def broken() -> object:
    raise ImportError("no module named nothing")


def test_the_built_in_features_are_plugins() -> None:
    plugins = load_plugins(installed=list)
    assert list(plugins.transports) == ["memory", "tcp"]
    assert list(plugins.storage_backends) == ["memory", "wal"]
    assert list(plugins.ack_modes) == ["local"]
    assert all(info.problem is None for info in plugins.found)


def test_a_guest_adds_to_them() -> None:
    plugins = load_plugins(extra=[Guest()], installed=list)
    assert plugins.ack_mode("committed").acknowledged is committed


def test_an_installed_guest_is_found_by_its_entry_point() -> None:
    plugins = load_plugins(installed=lambda: [entry("zones", Guest)])
    assert plugins.found[-1] == PluginInfo("zones", "vaylix-zones")
    assert "committed" in plugins.ack_modes


class Raising:
    @hookimpl
    def vaylix_ack_modes(self) -> list[AckMode]:
        raise RuntimeError("out of order")


class Numbers:
    @hookimpl
    def vaylix_ack_modes(self) -> list[int]:
        return [5]


@pytest.mark.parametrize(
    ("load", "problem"),
    [
        (broken, "no module named nothing"),
        (Misspelt, "vaylix_ack_mods"),
        (Asynchronous, "must not be a coroutine function"),
        (Raising, "vaylix_ack_modes failed: RuntimeError: out of order"),
        (Numbers, "5 is no AckMode"),
    ],
)
def test_a_broken_guest_is_left_out_and_named(load: Callable[[], object], problem: str) -> None:
    def instance() -> object:
        return load()

    plugins = load_plugins(installed=lambda: [entry("bad", instance), entry("good", Guest)])
    assert "local" in plugins.ack_modes
    info = next(info for info in plugins.found if info.name == "bad")
    assert info.problem is not None
    assert problem in info.problem
    assert info.distribution == "vaylix-bad"


def test_strict_makes_a_broken_guest_fatal() -> None:
    with pytest.raises(PluginError, match=r"plugin bad of vaylix-bad cannot be loaded.*nothing"):
        load_plugins(strict=True, installed=lambda: [entry("bad", broken)])


def test_a_disabled_guest_is_not_even_loaded() -> None:
    plugins = load_plugins(disabled=["bad"], strict=True, installed=lambda: [entry("bad", broken)])
    assert plugins.found[-1] == PluginInfo("bad", "vaylix-bad", "disabled by --disable-plugins")


def test_two_records_of_one_name_stop_the_start() -> None:
    with pytest.raises(PluginError, match="two plugins register AckMode 'local'"):
        load_plugins(extra=[Rival()], installed=list)


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    plugins = load_plugins(installed=list)
    with pytest.raises(SettingsError, match="'quic' for --transport: expected one of memory, tcp"):
        plugins.transport("quic")


def test_a_module_can_be_a_plugin() -> None:
    module = ModuleType("guest")
    vars(module)["vaylix_ack_modes"] = hookimpl(
        lambda: [AckMode(name="committed", acknowledged=committed)]
    )
    assert "committed" in load_plugins(extra=[module], installed=list).ack_modes

"""Coroutine tests run on a loop of their own, with a time limit."""

from __future__ import annotations

import asyncio
import inspect

import pytest

TEST_SECONDS_MAX = 60


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def limited() -> None:
        async with asyncio.timeout(TEST_SECONDS_MAX):
            await function(**arguments)

    asyncio.run(limited())
    return True

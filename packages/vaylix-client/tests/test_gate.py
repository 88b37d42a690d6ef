from __future__ import annotations

import asyncio

import pytest

from vaylix_client._gate import Gate, _Waiter
from vaylix_client.errors import NotSentError


def _refusal() -> NotSentError:
    return NotSentError("X", "x", "closed")


async def _settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_bound_holds_and_waiters_come_in_order() -> None:
    gate = Gate(2)
    order: list[int] = []

    async def visitor(number: int) -> None:
        await gate.enter()
        order.append(number)

    assert gate.try_enter()
    assert gate.try_enter()
    assert not gate.try_enter()
    tasks = [asyncio.create_task(visitor(number)) for number in range(3)]
    await _settle()
    assert order == []
    gate.leave()
    await _settle()
    assert order == [0]
    gate.leave()
    gate.leave()
    await _settle()
    assert order == [0, 1, 2]
    await asyncio.gather(*tasks)


async def test_an_owner_is_alone_from_then_on_and_is_not_starved() -> None:
    gate = Gate(8)
    assert gate.try_enter()
    await gate.own()
    entering = asyncio.create_task(gate.enter())
    owning = asyncio.create_task(gate.own())
    late = asyncio.create_task(gate.enter())
    await _settle()
    assert not entering.done()
    gate.disown()
    await _settle()
    assert entering.done()
    assert owning.done(), "an owner does not wait for those inside"
    assert not late.done(), "nor does anybody overtake it"
    gate.disown()
    await late


async def test_nobody_overtakes_a_waiting_owner() -> None:
    gate = Gate(8)
    await gate.own()
    owning = asyncio.create_task(gate.own())
    await _settle()
    assert not gate.try_enter()
    gate.disown()
    await owning


@pytest.mark.parametrize("wants_to_own", [True, False])
async def test_a_turn_that_comes_with_a_cancellation_is_passed_on(wants_to_own: bool) -> None:
    gate = Gate(1)
    await gate.own()
    first = asyncio.create_task(gate.own() if wants_to_own else gate.enter())
    second = asyncio.create_task(gate.own())
    await _settle()
    gate.disown()  # The turn of `first` has come, but it has not run yet ...
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second


async def test_a_cancelled_owner_lets_those_behind_it_enter() -> None:
    gate = Gate(2)
    assert gate.try_enter()
    assert gate.try_enter()
    first = asyncio.create_task(gate.enter())
    owner = asyncio.create_task(gate.own())
    behind = asyncio.create_task(gate.enter())
    await _settle()
    first.cancel()
    await _settle()
    assert owner.done()
    gate.leave()
    gate.disown()
    await behind


async def test_a_closed_gate_tells_everybody_each_with_an_own_error() -> None:
    gate = Gate(1)
    assert gate.try_enter()
    waiting = [asyncio.create_task(gate.enter()), asyncio.create_task(gate.own())]
    await _settle()
    gate.close(_refusal)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, NotSentError) for error in errors)
    assert errors[0] is not errors[1]
    assert not gate.try_enter()
    with pytest.raises(NotSentError):
        await gate.enter()
    with pytest.raises(NotSentError):
        await gate.own()
    gate.leave()


@pytest.mark.parametrize("is_last_first", [True, False], ids=["last first", "first first"])
async def test_everybody_who_leaves_the_queue_leaves_it_without_a_look_at_the_others(
    monkeypatch: pytest.MonkeyPatch, *, is_last_first: bool
) -> None:
    comparisons = 0

    def is_equal(waiter: _Waiter, other: object) -> bool:
        nonlocal comparisons
        comparisons += 1
        return waiter is other

    monkeypatch.setattr(_Waiter, "__eq__", is_equal)
    count = 300
    gate = Gate(1)
    await gate.enter()
    tasks = [asyncio.create_task(gate.enter()) for _ in range(count)]
    await _settle()
    for task in reversed(tasks) if is_last_first else tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert comparisons < count
    gate.leave()
    assert gate.try_enter(), "nobody stands in the queue any more"

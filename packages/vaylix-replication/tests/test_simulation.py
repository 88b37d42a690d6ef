"""The simulator: fixed seeds pass, a seed decides everything, and the checkers bite."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter

import msgspec
import pytest

from vaylix_replication import (
    Batch,
    Configuration,
    HardState,
    MemberKind,
    Message,
    Write,
    decode_message,
)
from vaylix_replication.errors import MalformedMessageError
from vaylix_replication.messages import AppendReply, Vote
from vaylix_replication.testing.simulate import main
from vaylix_replication.testing.simulation import (
    Happening,
    Report,
    Simulation,
    SimulationOptions,
    ViolationError,
    network,
    simulate,
)
from vaylix_replication.testing.simulation.checks import Checks, TimeCheck, TimeFloor
from vaylix_replication.testing.simulation.disk import Disk, PendingWrite
from vaylix_replication.testing.simulation.linearizability import Interval, is_linearizable
from vaylix_replication.testing.simulation.schedule import MILLISECOND

FIXED_SEEDS = range(120)


@functools.cache
def report_of(seed: int) -> Report:
    return simulate(SimulationOptions.draw(seed))


@pytest.mark.parametrize("seed", FIXED_SEEDS)
def test_no_promise_is_broken(seed: int) -> None:
    assert report_of(seed).answered_count > 0


def test_99_of_100_seeds_have_a_leader_within_two_timeouts_of_the_healing() -> None:
    slow = [seed for seed in FIXED_SEEDS if not report_of(seed).is_quick]
    assert len(slow) <= 1, slow


def test_whatever_can_happen_has_happened_in_the_fixed_seeds() -> None:
    """A fault that never strikes proves nothing, and nobody would notice that it does not."""
    total: Counter[Happening] = Counter()
    for seed in FIXED_SEEDS:
        total.update(report_of(seed).happenings)
    assert not set(Happening) - set(+total)


def test_a_group_whose_every_second_message_is_damaged_still_answers() -> None:
    report = simulate(SimulationOptions(seed=1, corruption=0.5))
    assert report.answered_count > 0
    assert report.happenings[Happening.CORRUPTION] > 100


def test_a_decoder_that_crashes_on_damaged_bytes_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(data: bytes) -> Message:
        try:
            return decode_message(data)
        except MalformedMessageError as error:
            raise IndexError from error

    monkeypatch.setattr(network, "decode_message", refuse)
    with pytest.raises(IndexError):
        simulate(SimulationOptions(seed=1, corruption=0.5))


def test_semantics_are_raised_step_by_step_and_nodes_upgraded_for_it() -> None:
    simulation = Simulation(SimulationOptions(seed=2, semantics_interval_ms=50))
    simulation.run()
    assert simulation.happenings[Happening.UPGRADE] > 0
    versions = {p.raft.status().semantics_version for p in simulation.processes.values()}
    assert versions == {simulation.semantics_version}
    assert simulation.semantics_version > 1


def test_a_node_behind_the_others_waits_at_the_barrier_until_it_is_upgraded() -> None:
    """A joining node may be older than what the voters have agreed on meanwhile."""
    options = SimulationOptions(
        seed=3, voters=1, spares=3, membership_interval_ms=50, semantics_interval_ms=100
    )
    simulation = Simulation(options)
    barriers: set[str] = set()
    while simulation.schedule.now < options.duration_ms * MILLISECOND:
        simulation.schedule.run_until(simulation.schedule.now + 5 * MILLISECOND)
        for process in simulation.processes.values():
            if process.alive and process.raft.status().semantics_barrier is not None:
                barriers.add(process.node_id)
    assert barriers
    simulation.run()
    assert all(p.raft.status().semantics_barrier is None for p in simulation.processes.values())


def test_a_seed_decides_everything() -> None:
    runs = [simulate(SimulationOptions.draw(17)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] != simulate(SimulationOptions.draw(18))


def test_a_failure_carries_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Simulation) -> None:
        raise ViolationError("rule", "detail")

    monkeypatch.setattr(Simulation, "run", fail)
    with pytest.raises(ViolationError) as caught:
        simulate(SimulationOptions.draw(5))
    assert "seed=5" in caught.value.__notes__[0]


def test_the_command_replays_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3"]) == 0
    assert "1 seeds without a violation" in capsys.readouterr().out
    assert main(["--seeds", "3..5"]) == 0
    assert "2 seeds" in capsys.readouterr().out


def test_the_command_names_the_seed_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Simulation) -> None:
        raise ViolationError("rule", "detail")

    monkeypatch.setattr(Simulation, "run", fail)
    assert main(["--seed", "3"]) == 1
    assert "--seed 3" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [4, 8, 9, 17, 21, 38, 48])
def test_healing_is_final(seed: int) -> None:
    """Each of these seeds has a fault on its way, or a node asleep, when everything is healed."""
    simulation = Simulation(SimulationOptions.draw(seed))
    simulation.schedule.run_until(simulation.options.duration_ms * MILLISECOND)
    simulation._heal()
    assert all(process.reachable for process in simulation.processes.values())
    lives = [process.life for process in simulation.processes.values()]
    for _ in range(1000):
        simulation.schedule.run_until(simulation.schedule.now + MILLISECOND)
        assert not simulation.network.cut_links
    assert [process.life for process in simulation.processes.values()] == lives


@pytest.mark.parametrize(
    ("seeds", "slow_count", "code"),
    [(199, 199, 0), (200, 2, 0), (200, 3, 1), (299, 2, 0), (299, 3, 1), (300, 3, 0)],
)
def test_the_command_fails_when_more_than_one_in_a_hundred_waits_long_for_a_leader(
    seeds: int,
    slow_count: int,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(simulation: Simulation) -> Report:
        slow = simulation.options.seed < slow_count
        return Report(
            event_count=1,
            operation_count=1,
            answered_count=1,
            term=1,
            leader_after_timeouts=2.01 if slow else 2.0,
        )

    monkeypatch.setattr(Simulation, "run", run)
    assert main(["--seeds", f"0..{seeds}"]) == code
    output = capsys.readouterr()
    assert f"{slow_count} seeds over 2" in output.out
    assert ("more than 1 %" in output.err) == (code == 1)


def test_a_torn_write_may_have_cut_but_neither_appended_nor_remembered() -> None:
    disk = Disk(Configuration(), Counter())
    before = HardState(term=1, vote="a", commit=1)
    disk.log.write(Write(index=2, term=1, hard_state=before, batches=(batch(1, 1), batch(2, 1))))
    replace = Write(
        index=2,
        term=2,
        hard_state=HardState(term=2, vote="b", commit=1),
        truncate_after=1,
        batches=(batch(2, 2),),
    )
    disk.pending.append(PendingWrite(replace, b"", []))
    disk.crash(0, torn=True)
    assert disk.batches == [batch(1, 1)]
    assert disk.restore().hard_state == before
    assert not disk.pending


def test_a_failed_sync_may_lose_what_was_on_its_way_for_ever() -> None:
    disk = Disk(Configuration(), Counter())
    for index in (1, 2):
        write = Write(index=index, term=1, hard_state=HardState(), batches=(batch(index, 1),))
        disk.pending.append(PendingWrite(write, b"", []))
    disk.complete_oldest()
    disk.lose_pending()
    disk.crash(9, torn=True)
    assert disk.batches == [batch(1, 1)]


# -- The checkers -----------------------------------------------------------------------------


def batch(index: int, term: int, payload: bytes = b"") -> Batch:
    return Batch.create(first_index=index, term=term, kind=1, payload=payload)


def test_log_matching_is_checked() -> None:
    checks = Checks()
    checks.appended((batch(1, 1), batch(2, 1)), 0)
    checks.appended((batch(1, 1),), 0)
    with pytest.raises(ViolationError, match="log matching"):
        checks.appended((batch(2, 1, b"other"),), 1)
    with pytest.raises(ViolationError, match="log matching"):
        checks.appended((batch(2, 1),), 0)


def test_state_machine_safety_is_checked() -> None:
    checks = Checks()
    checks.applied("a", 1, batch(1, 1), 7)
    checks.restored("b", 1, 7)
    with pytest.raises(ViolationError, match="state machine safety"):
        checks.applied("b", 1, batch(1, 1), 8)
    with pytest.raises(ViolationError, match="state machine safety"):
        checks.restored("b", 1, 8)


def test_nobody_passes_semantics_that_it_does_not_speak() -> None:
    Checks().semantics("a", 2, 2)
    with pytest.raises(ViolationError, match="unspoken semantics"):
        Checks().semantics("a", 3, 2)


def acknowledgement(index: int) -> AppendReply:
    return AppendReply(
        cluster_id="simulation",
        sender="a",
        term=0,
        accepted=True,
        index=index,
        round=0,
        semantics_version_max=1,
    )


def test_an_acknowledgement_must_vouch_for_the_very_entry_that_is_durable() -> None:
    process = Simulation(SimulationOptions(seed=1)).processes["a"]
    checks, disk = Checks(), process.disk
    disk.log.put(batch(1, 1))
    disk.log.put(batch(2, 1))
    checks.leaves(process, "b", acknowledgement(2), (2, 1))
    for entry in ((2, 2), (3, 1)):
        with pytest.raises(ViolationError, match="fsync before message"):
            checks.leaves(process, "b", acknowledgement(entry[0]), entry)


def test_an_acknowledgement_must_not_be_taken_back_by_a_write_on_its_way() -> None:
    process = Simulation(SimulationOptions(seed=1)).processes["a"]
    checks, disk = Checks(), process.disk
    disk.log.put(batch(1, 1))
    disk.log.put(batch(2, 1))
    cut = Write(index=1, term=1, hard_state=HardState(), truncate_after=1)
    disk.pending.append(PendingWrite(cut, b"", []))
    checks.leaves(process, "b", acknowledgement(1), (1, 1))
    with pytest.raises(ViolationError, match="fsync before message"):
        checks.leaves(process, "b", acknowledgement(2), (2, 1))
    late = msgspec.structs.replace(acknowledgement(2), term=process.raft.term - 1)
    checks.leaves(process, "b", late, (2, 1))


def test_a_candidate_must_vouch_for_the_log_that_is_durable() -> None:
    process = Simulation(SimulationOptions(seed=1)).processes["a"]
    process.disk.log.put(batch(1, 1))
    process.disk.log.hard_state = HardState(term=2, vote="a")
    vote = Vote(
        cluster_id="simulation", sender="a", term=2, last_index=1, last_term=1, forced=False
    )
    Checks().leaves(process, "b", vote, (1, 1))
    for entry in ((1, 2), (2, 1)):
        with pytest.raises(ViolationError, match="fsync before message"):
            Checks().leaves(process, "b", vote, entry)


def test_the_commit_point_is_checked() -> None:
    with pytest.raises(ViolationError, match="never falls"):
        Checks().commit_moved("a", 5, 4)


def test_no_answer_is_as_of_a_time_before_one_that_was_observed() -> None:
    times = TimeCheck()
    times.observed(200_000, times.floor, TimeFloor(heard_ms=50, stamped_ms=40))
    floor = times.floor
    times.observed(210_000, floor, TimeFloor(heard_ms=0, stamped_ms=50))
    with pytest.raises(ViolationError, match="time never falls"):
        times.observed(210_000, floor, TimeFloor(heard_ms=49, stamped_ms=49))


def test_after_a_crash_only_stamps_and_what_was_confirmed_since_hold() -> None:
    times = TimeCheck()
    times.observed(200_000, times.floor, TimeFloor(heard_ms=50, stamped_ms=40))
    asked = times.floor
    times.crashed(210_000)
    times.observed(205_000, asked, TimeFloor(heard_ms=45, stamped_ms=0))
    with pytest.raises(ViolationError, match="time never falls"):
        times.observed(205_000, asked, TimeFloor(heard_ms=39, stamped_ms=0))
    times.observed(300_000, times.floor, TimeFloor(heard_ms=90, stamped_ms=0))
    times.observed(305_000, times.floor, TimeFloor(heard_ms=80, stamped_ms=0))
    times.observed(311_000, times.floor, TimeFloor(heard_ms=80, stamped_ms=0))
    with pytest.raises(ViolationError, match="time never falls"):
        times.observed(312_000, times.floor, TimeFloor(heard_ms=79, stamped_ms=0))


def write(begin: int, end: int, value: int) -> Interval:
    return Interval(begin, end, lambda _: value)


def read(begin: int, end: int, value: int) -> Interval:
    return Interval(begin, end, lambda state: state if state == value else None)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([write(0, 1, 5), read(2, 3, 5)], True),
        ([write(0, 1, 5), read(2, 3, 0)], False),
        ([write(0, 9, 5), read(2, 3, 0), read(4, 5, 5)], True),
        ([write(0, 9, 5), read(2, 3, 5), read(4, 5, 0)], False),
        ([write(0, 9, 5), write(0, 9, 6), read(1, 2, 6), read(3, 4, 5)], True),
        ([write(0, 1, 5), write(2, 3, 6), read(4, 5, 5)], False),
    ],
)
def test_histories_are_told_apart(history: list[Interval], expected: bool) -> None:
    assert is_linearizable(history) is expected


def test_the_search_agrees_with_trying_every_order() -> None:
    """Exhaustive over small histories: three operations, all overlaps, all answers."""
    spans = [(0, 1), (0, 3), (2, 3)]
    for choice in itertools.product(spans, repeat=3):
        for values in itertools.product((0, 5, 6), repeat=1):
            history = [
                write(*choice[0], 5),
                write(*choice[1], 6),
                read(*choice[2], values[0]),
            ]
            assert is_linearizable(history) is tried_by_hand(history)


def tried_by_hand(history: list[Interval]) -> bool:
    for order in itertools.permutations(history):
        in_time = all(
            not later.end < earlier.begin for earlier, later in itertools.combinations(order, 2)
        )
        state: int | None = 0
        for operation in order:
            state = operation.step(state) if state is not None else None
        if in_time and state is not None:
            return True
    return False


def test_options_differ_from_seed_to_seed_and_cover_every_fault() -> None:
    drawn = [SimulationOptions.draw(seed) for seed in range(200)]
    for field in SimulationOptions.__struct_fields__:
        if field not in {"duration_ms", "tick_ms"}:
            assert len({getattr(options, field) for options in drawn}) > 1, field


def test_an_option_depends_on_the_seed_and_its_own_name_alone() -> None:
    """Otherwise every new option would give all seeds that are written down another meaning."""
    for seed in range(20):
        options = SimulationOptions.draw(seed)
        source = random.Random(f"{seed} heartbeat_ticks")
        assert options.heartbeat_ticks == source.choice((1, 2, 3))
        assert options.lease == (random.Random(f"{seed} lease").random() < 0.5)


def test_a_whole_group_without_faults_answers_everything() -> None:
    report = simulate(SimulationOptions(seed=1))
    assert report.answered_count == report.operation_count


def test_a_group_that_starts_with_one_voter_grows() -> None:
    options = SimulationOptions(seed=4, voters=1, spares=4, membership_interval_ms=30)
    simulation = Simulation(msgspec.structs.replace(options, snapshot_entries=5))
    simulation.run()
    assert len(simulation.processes) > 1
    first = Configuration.of_voters({"a": "a:9173"})
    assert any(p.raft.status().configuration != first for p in simulation.processes.values())


def test_members_come_as_learners_too_and_get_a_voice_later() -> None:
    options = SimulationOptions(seed=4, spares=3, membership_interval_ms=30)
    simulation = Simulation(options)
    kinds: set[tuple[str, MemberKind]] = set()
    while simulation.schedule.now < options.duration_ms * MILLISECOND:
        simulation.schedule.run_until(simulation.schedule.now + 5 * MILLISECOND)
        for process in simulation.processes.values():
            members = process.raft.status().configuration.members
            kinds.update((member.node_id, member.kind) for member in members)
    learners = {node_id for node_id, kind in kinds if kind is MemberKind.LEARNER}
    assert learners
    assert any((node_id, MemberKind.VOTER) in kinds for node_id in learners)

"""The log against a list: any steps in any order, stopped between them or at any of their calls.

A frame is on the disk as a whole or not at all, with its batches and its hard state, so what a
start finds must be what the log held behind one of its frames: behind the last one when only the
process has ended, or else behind one that nobody was told is durable, or a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from vaylix_storage import (
    Batch,
    BatchKind,
    HardState,
    Log,
    LogOptions,
    RecoveryOutcome,
    SyncPolicy,
)
from vaylix_storage._catalog import SegmentInfo
from vaylix_storage._segment_chain import SegmentChain
from vaylix_storage.errors import StorageError
from vaylix_storage.testing import (
    MemoryVfs,
    SimulatedCrash,
    Survival,
    counting_random_bytes,
    fixed_keyring,
)

DIRECTORY = Path("/data/wal")


def make_batch(first_index: int, *, count: int, term: int, payload: bytes) -> Batch:
    return Batch.create(
        first_index=first_index,
        count=count,
        term=term,
        kind=BatchKind.KEYSPACE,
        timestamp_ms=first_index,
        payload=payload,
    )


# What survives of data and names when the power is cut; None for the end of the process alone.
Stop = tuple[Survival, Survival] | None
STOPS: st.SearchStrategy[Stop] = st.none() | st.tuples(
    st.sampled_from(Survival), st.sampled_from(Survival)
)
# What a log holds.
State = tuple[list[Batch], HardState]


def last_index_of(state: State) -> int:
    batches, _ = state
    return batches[-1].last_index if batches else 0


class LogModel(RuleBasedStateMachine):
    """The log against a list, with clean stops, kills and power cuts, between steps and in them."""

    @initialize(
        segment_bytes_max=st.sampled_from([0, 400, 1000]), policy=st.sampled_from(SyncPolicy)
    )
    def start(self, segment_bytes_max: int, policy: SyncPolicy) -> None:
        self.vfs = MemoryVfs()
        self.options = LogOptions(
            timeline=b"t" * 16, segment_bytes_max=segment_bytes_max, sync_policy=policy
        )
        # As of now, and before that one for each frame that need not be on the disk.
        self.states: list[State] = [([], HardState())]
        # After how many calls, each time counted anew, and how it will be stopped.
        self.stops: list[tuple[int, Stop]] = []
        self.term = 0
        self.open()

    @property
    def batches(self) -> list[Batch]:
        return self.states[-1][0]

    def open(self) -> None:
        self.log = Log.open(
            DIRECTORY,
            vfs=self.vfs,
            keyring=fixed_keyring(),
            options=self.options,
            random_bytes=counting_random_bytes(self.vfs.generation),
        )

    def do(self, step: Callable[[], None], state: State) -> bool:
        """Do what leads to a state; tell whether it came to its end."""
        segment_count = self.log.segment_count
        try:
            step()
        except SimulatedCrash:
            self.recover(self.stops.pop(0)[1], state)
            return False
        if self.log.segment_count > segment_count:
            # What came before a new segment is on the disk.
            del self.states[:-1]
        self.states.append(state)
        return True

    def recover(self, stop: Stop, unfinished: State | None = None) -> None:
        """Stop, start, and see that nothing is lost but what may be: whole frames at the end."""
        allowed = self.states[-1:]
        durable_index = self.log.durable_index
        has_started = False
        while not has_started:
            if stop is None:
                self.vfs.kill()
            else:
                self.vfs.power_cut(*stop)
                allowed = [x for x in self.states if last_index_of(x) >= durable_index]
            self.arm_next()
            try:
                self.open()
                has_started = True
            except SimulatedCrash:
                stop = self.stops.pop(0)[1]
        if unfinished is not None:
            allowed = [*allowed, unfinished]
        found = (list(self.log.read(1)), self.log.hard_state)
        assert found in allowed
        self.states = [found]

    def arm_next(self) -> None:
        if self.stops:
            self.vfs.crash_at(self.vfs.call_count + self.stops[0][0])

    @rule(stops=st.lists(st.tuples(st.integers(1, 12), STOPS), min_size=1, max_size=3))
    def arm(self, stops: list[tuple[int, Stop]]) -> None:
        """Interrupt the steps to come, those of a start included."""
        self.stops = stops
        self.arm_next()

    @rule(
        sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 300)), max_size=4),
        hard_state=st.none() | st.builds(HardState, st.just(0), st.binary(max_size=9), st.just(0)),
        term_step=st.integers(0, 1),
    )
    def append(
        self, sizes: list[tuple[int, int]], hard_state: HardState | None, term_step: int
    ) -> None:
        self.term += term_step
        index = self.log.last_index + 1
        batches = []
        for count, payload_bytes in sizes:
            payload = bytes(payload_bytes)
            batches.append(make_batch(index, count=count, term=self.term, payload=payload))
            index += count
        self.do(
            lambda: self.log.append(batches, hard_state),
            (self.batches + batches, hard_state or self.states[-1][1]),
        )

    @rule()
    def sync(self) -> None:
        votes = [hard_state for _, hard_state in self.states]
        must_sync = self.options.sync_policy is SyncPolicy.SYNC or votes.count(votes[0]) < len(
            votes
        )
        if self.do(self.log.sync, self.states[-1]) and must_sync:
            del self.states[:-1]

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        keep = data.draw(st.integers(0, len(self.batches)))
        batches, hard_state = self.states[-1]
        index = batches[keep - 1].last_index if keep else 0
        is_change = keep < len(batches)
        if (
            self.do(lambda: self.log.truncate_after(index), (batches[:keep], hard_state))
            and is_change
        ):
            del self.states[:-1]

    @rule()
    def stop_cleanly(self) -> None:
        if self.do(self.log.close, self.states[-1]):
            del self.states[:-1]
            if self.do(self.open, self.states[-1]):
                assert self.log.recovery.outcome is RecoveryOutcome.CLEAN_END
                assert self.log.recovery.recopied_frames == 0

    @rule(stop=STOPS)
    def stop_hard(self, stop: Stop) -> None:
        stops = list(self.stops)
        self.recover(stop)
        if stop is None and self.stops == stops:
            assert self.log.recovery.outcome is RecoveryOutcome.UNCLEAN_END

    @invariant()
    def the_log_holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "log"):
            return
        assert list(self.log.read(1)) == self.batches
        assert self.log.last_index == last_index_of(self.states[-1])
        assert self.log.hard_state == self.states[-1][1]
        for batch in self.batches:
            assert self.log.term_of(batch.first_index) == batch.term
            assert next(self.log.read(batch.last_index)) == batch


TestLogModel = LogModel.TestCase
TestLogModel.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


class StoppedBetweenStepsOnly(LogModel):
    def arm(self) -> None:
        """Not a rule any more."""


def test_the_model_finds_what_only_a_stop_within_a_step_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted bug: what a cut supersedes goes before the segment is there that says so."""
    real_replace = SegmentChain._replace

    def remove_first(chain: SegmentChain, sealed: list[SegmentInfo], *rest: object) -> None:
        kept = {info.path for info in sealed}
        gone = [info.path for info in (*chain.sealed, chain.active) if info.path not in kept]
        chain._files.tidy((), gone, DIRECTORY)
        real_replace(chain, sealed, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentChain, "_replace", remove_first)
    few = settings(
        max_examples=60, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
    )
    run_state_machine_as_test(StoppedBetweenStepsOnly, settings=few)
    with pytest.raises((AssertionError, StorageError)):
        run_state_machine_as_test(LogModel, settings=few)

"""The rules that every ack mode keeps, for those who write one of their own.

def test_my_mode() -> None:
    check_ack_mode(MyMode(), may_precede_commit=False)
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from vaylix_replication import AckProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaylix_replication import AckMode

__all__ = ["check_ack_mode"]

_INDEX_MAX = 3


def check_ack_mode(mode: AckMode, *, may_precede_commit: bool) -> None:
    """Try all small groups; raise AssertionError with the first one that breaks a rule.

    - the answer never falls while the group gets ahead
    - nothing is answered that this node itself does not have, unless it is committed
    - a member that is not known to have anything counts as having nothing
    - unless `may_precede_commit`, nothing is answered before it is committed
    """
    assert mode.name, "an ack mode has a name"
    for progress in _small_groups():
        index = mode.acknowledged(progress)
        assert index >= 0, f"{progress}: negative"
        own = progress.match.get(progress.own_id, 0)
        assert index <= max(own, progress.commit), f"{progress}: answers {index} out of thin air"
        if not may_precede_commit:
            assert index <= progress.commit, f"{progress}: answers {index} before its commit"
        known = {node_id: match for node_id, match in progress.match.items() if match}
        without = _with(progress, known, progress.commit)
        assert mode.acknowledged(without) == index, f"{progress}: absent is not the same as 0"
        for further in _steps(progress):
            assert mode.acknowledged(further) >= index, f"{progress} to {further}: falls"


def _small_groups() -> Iterator[AckProgress]:
    for voters in ("a", "ab", "abc"):
        for matches in itertools.product(range(_INDEX_MAX + 1), repeat=len(voters)):
            for commit in range(_INDEX_MAX + 1):
                yield AckProgress(
                    own_id="a",
                    voters=tuple(voters),
                    match=dict(zip(voters, matches, strict=True)),
                    commit=commit,
                )


def _steps(progress: AckProgress) -> Iterator[AckProgress]:
    yield _with(progress, dict(progress.match), progress.commit + 1)
    for node_id in progress.voters:
        match = dict(progress.match)
        match[node_id] = match.get(node_id, 0) + 1
        yield _with(progress, match, progress.commit)


def _with(progress: AckProgress, match: dict[str, int], commit: int) -> AckProgress:
    return AckProgress(own_id=progress.own_id, voters=progress.voters, match=match, commit=commit)

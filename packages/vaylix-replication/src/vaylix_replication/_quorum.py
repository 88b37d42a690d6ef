"""Arithmetic of majorities, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["majority_reached", "majority_size"]


def majority_size(voter_count: int) -> int:
    """Return how many of `voter_count` voters make a majority: floor(n / 2) + 1."""
    return voter_count // 2 + 1


def majority_reached(values: Sequence[int]) -> int:
    """Return the largest number that a majority of the voters has reached.

    `values` holds one number for each voter. Without any voter nothing is ever agreed, so the
    answer is 0. Two majorities of one group always share a voter, and so do majorities of two
    groups that differ by one voter; that is why membership moves one voter at a time
    (dissertation 4.1).
    """
    if not values:
        return 0
    return sorted(values, reverse=True)[len(values) // 2]

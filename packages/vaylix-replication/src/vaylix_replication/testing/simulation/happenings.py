"""What can happen to a simulated group, to be counted: what never happens tests nothing."""

from enum import StrEnum

__all__ = ["Happening"]


class Happening(StrEnum):
    """A fault, or an act of administration, that has really taken effect."""

    LOSS = "message lost"
    DUPLICATION = "message doubled"
    STRAGGLING = "message much delayed"
    CORRUPTION = "corrupted message refused"
    ISOLATION = "node isolated"
    HALVES = "group halved"
    ONE_WAY = "links cut in one direction"
    BRIDGE = "halves bridged by one node"
    SWIZZLE = "nodes cut off in turn"
    ROLLING_ISOLATION = "new leader isolated in turn"
    RIVAL_CHANGES = "rivals divided"
    DEAF_TRANSFER = "old leader made deaf"
    CRASH = "crash"
    CRASH_OF_ALL = "crash of all"
    CRASH_OF_LEADER = "crash of a new leader"
    CRASH_IN_CUT = "crash while the log is cut"
    TORN_CUT = "cut without its append"
    POWER_CUT = "power cut"
    PAUSE = "pause"
    CLOCK_JUMP = "clock set"
    SYNC_STALL = "stalled sync"
    SYNC_FAILURE = "failed sync"
    PAGES_LOST = "pages lost by a failed sync"
    SNAPSHOT = "snapshot taken"
    INSTALL = "snapshot installed"
    LEASE_READ = "read under the lease"
    CAMPAIGN = "candidacy by request"
    TRANSFER = "leadership handed over"
    CHANGE = "change of the membership"
    LEARNER = "learner joined"
    UPGRADE = "node upgraded"
    SEMANTICS = "semantics raised"

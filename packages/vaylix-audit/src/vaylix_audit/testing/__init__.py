"""For tests: a simulated disk that loses and fails what real ones do.

`MemoryFileSystem` is a `FileSystem`. What is written is seen at once, as through a page cache, and
is on the "disk" only after a sync of the file; a name only after a sync of its directory.
`power_cut` throws away what was not synced, or lets a chosen part of it survive. A sync that fails
drops what it should have written: it stays readable until the power cut and is gone after it, and
no later sync brings it back, as on Linux.

All calls that change something are counted. `crash_at` stops the process before the n-th of them,
`fail_at` makes the n-th fail, `cut_short_at` makes the n-th write take half of what it is given. So
a test can loop over every call of a workload.
"""

from vaylix_audit.testing._memory_file_system import MemoryFileSystem, SimulatedCrash, Survival

__all__ = ["MemoryFileSystem", "SimulatedCrash", "Survival"]

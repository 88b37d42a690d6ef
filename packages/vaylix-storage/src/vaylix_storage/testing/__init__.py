"""For tests: a simulated disk that can lose and fail what real ones do, and a kit for backends.

`MemoryVfs` is a `Vfs`. What is written is seen at once, as through a page cache, and is on the
"disk" only after a sync of the file; a name only after a sync of its directory. `power_cut` throws
away what was not synced, or lets a chosen part of it survive, as real disks do. A sync that fails
drops what it should have written: it stays readable until the power cut and is gone after it, and
no later sync brings it back, as on Linux. It also holds storage to its word that no byte that was
written is ever changed or cut off.

All calls that change something are counted. `crash_at` stops the process before the n-th of them;
`fail_at` makes the n-th fail. So a test can loop over every call of a workload.

`batch_list` is the simplest state over a data directory, to compare what a start finds with what
was appended.

`BACKEND_CHECKS` are the rules that every storage backend keeps.
"""

from vaylix_storage.testing._fixed import counting_random_bytes, fixed_keyring
from vaylix_storage.testing._memory_vfs import MemoryVfs, SimulatedCrash
from vaylix_storage.testing._simulated_disk import SURVIVALS, Survival
from vaylix_storage.testing.backend_kit import BACKEND_CHECKS, BackendUnderTest

__all__ = [
    "BACKEND_CHECKS",
    "SURVIVALS",
    "BackendUnderTest",
    "MemoryVfs",
    "SimulatedCrash",
    "Survival",
    "counting_random_bytes",
    "fixed_keyring",
]

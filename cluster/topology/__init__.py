"""Where workers run: the machine's tree of CPUs, slots cut from it, leases, pinning, memory.

`tree` reads sockets, NUMA nodes, cores and caches; `slots` divides them among workers; `leases`
keeps two workers off the same core; `affinity` and `memory` put a process on its slot and prove
that it stays there. Nothing here imports numba, which sizes itself when imported: a process must be
pinned first.
"""

"""Registry of the files that the kit may use: their addresses, their contents, and the hashes that they must have.

The list is ``data-registry.toml``, a package resource, so that an installed kit needs no checkout; a user's own
list is laid over it. A file is verified each time it is used, not only when it arrives.
"""

from kit.registry.catalogue import chosen, dataset, entries
from kit.registry.entry import Entry, cache_dir, state, user_registry
from kit.registry.fetching import accept, fetch, fetch_all, identify, strictly
from kit.registry.pins import Pin, pin

__all__ = [
    "Entry",
    "Pin",
    "accept",
    "cache_dir",
    "chosen",
    "dataset",
    "entries",
    "fetch",
    "fetch_all",
    "identify",
    "pin",
    "state",
    "strictly",
    "user_registry",
]

"""Every file that the kit may use: where it comes from, what it holds, and the hash that it must have.

The list is ``data-registry.toml``, a package resource, so that an installed kit needs no checkout; a user's own
list is laid over it. A file is verified each time it is used, not only when it arrives.
"""

from kit.registry.catalogue import chosen, dataset, entries
from kit.registry.entry import Entry
from kit.registry.obtain import fetch, fetch_all
from kit.registry.pins import Pin, pin
from kit.registry.places import cache_dir, state, user_registry

__all__ = [
    "Entry",
    "Pin",
    "cache_dir",
    "chosen",
    "dataset",
    "entries",
    "fetch",
    "fetch_all",
    "pin",
    "state",
    "user_registry",
]

"""Every file that the kit may use: where it comes from, what it holds, and the hash that it must have.

The list is ``data-registry.toml``, a package resource, so that an installed kit needs no checkout; a user's own
list is laid over it. A file is verified each time it is used, not only when it arrives.
"""

from kit.registry.catalogue import dataset, entries
from kit.registry.entry import Entry
from kit.registry.obtain import fetch
from kit.registry.places import cache_dir

__all__ = ["Entry", "cache_dir", "dataset", "entries", "fetch"]

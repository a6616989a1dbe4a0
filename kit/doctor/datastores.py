"""Whether there is a key to Copernicus' data stores, and whether it can be one; nobody is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kit.data.cds.access import find_access, key_file
from kit.doctor.finding import Finding, ok, skipped, warning
from kit.errors import SettingsError

__all__ = ["check_key"]

_NAME = "data stores"
_OTHERS = 0o077


def check_key(environment: Mapping[str, str], home: Path) -> Finding:
    """Look for the key that ``--source cds`` needs.

    Args:
        environment: of the process.
        home: of the user.
    """
    file = key_file(environment, home)
    if file is None and not environment.get("ECMWF_DATASTORES_KEY"):
        return skipped(_NAME, "no key to the Climate or the Atmosphere Data Store; only --source cds needs one")
    try:
        access = find_access("CDS", environment, home)
    except SettingsError as error:
        return warning(_NAME, str(error), "write url and key anew, as docs/cds.md shows")
    if access.where == str(file) and file is not None and file.stat().st_mode & _OTHERS:
        return warning(_NAME, f"the key in {file} can be read by other users", f"chmod 600 {file}")
    return ok(_NAME, f"a key in {access.where}")

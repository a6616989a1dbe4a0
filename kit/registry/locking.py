"""One process at a time works on a file of the cache, or on the user's own list."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.io.errors import RegistryError
from kit.io.locks import take
from kit.io.progress import ProgressCallback


@contextmanager
def locked(path: Path, watch: ProgressCallback, name: str) -> Iterator[None]:
    """Make this process the only one that works on a file; report when it has to wait.

    Args:
        path: File, whether it is there or not; its folder is made.
        watch: Receiver of the report.
        name: Name of what is worked on, for people.

    Raises:
        RegistryError: the folder cannot be written to.
    """
    file = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = take(file)
        if lock is None:
            watch.said(f"{name}: another process is at it; waiting for it to end")
            lock = take(file, wait=True)
    except OSError as error:
        msg = (
            f"{name}: {path.parent} cannot be written to: {error.strerror or error}. Mend that, or choose another "
            "folder with KIT_CACHE"
        )
        raise RegistryError(msg) from error
    try:
        yield
    finally:
        if lock is not None:
            lock.release()

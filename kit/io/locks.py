"""File locks, which the system releases however a process ends."""

import errno
import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path

_logger = logging.getLogger(__name__)

# What flock(2) answers on a file system that has no locks, such as some network mounts.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class LockHandle:
    """A lock that this process holds.

    Attributes:
        file: File that is locked.
        descriptor: Open file that the lock belongs to.
        exclusive: Whether others are kept out; false on a file system without locks.
    """

    file: Path
    descriptor: int
    exclusive: bool = True

    def release(self, *, remove: bool = False) -> None:
        """Release the lock.

        Args:
            remove: Whether to delete the file too, while it is still locked: whoever waits for it sees that it is gone.
        """
        if remove:
            self.file.unlink(missing_ok=True)
        os.close(self.descriptor)


def take(
    file: Path, *, shared: bool = False, make: bool = True, wait: bool = False, quiet: bool = False
) -> LockHandle | None:
    """Lock a file.

    A file system without locks grants every one, with a warning.

    Args:
        file: File to lock as a whole; its content stays.
        shared: Whether others may hold it at the same time, if they share it too.
        make: Whether to create the file if it is not there.
        wait: Whether to wait until it is free.
        quiet: Whether to say nothing of a file system without locks.

    Returns:
        The lock; None if another holder has it, in this process or in another, and ``wait`` is false.

    Raises:
        FileNotFoundError: there is no such folder; or no such file, and it was not to be made.
        OSError: the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT if make else os.O_RDWR
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not wait:
        operation |= fcntl.LOCK_NB
    while True:
        descriptor = os.open(file, flags, 0o644)
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            # flock(2) tells open files apart, not processes: threads of one process exclude each other, too.
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            if not quiet:
                _logger.warning("%s: this file system has no locks; let one process at a time work there", file.parent)
            return LockHandle(file, descriptor, exclusive=False)
        # The holder before may have removed the file: others would then lock a new one of that name.
        if _is_current(descriptor, file):
            return LockHandle(file, descriptor)
        os.close(descriptor)


def _is_current(descriptor: int, file: Path) -> bool:
    """Check whether the file that is locked is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False

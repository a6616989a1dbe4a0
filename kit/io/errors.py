"""Failures that a user can mend.

The command line prints a ``KitError`` as one message without a traceback and exits with 2; anything
else that escapes is a defect of ours and exits with 1.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from kit.io.secrets import scrub, scrub_all

P = ParamSpec("P")
T = TypeVar("T")

# Words of ENOSPC, EDQUOT and EFBIG, and of SQLite: MLflow, Zarr and PyTorch wrap the error, or raise one of their own
# with the text alone.
_FULL = ("No space left on device", "disk is full", "Disk quota exceeded", "File too large")


class KitError(ValueError):
    """A failure whose message says what was expected, what was found, and what to do next; secrets in it are masked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(scrub(message))


def masked(function: Callable[P, T]) -> Callable[P, T]:
    """Let whatever a function raises show no secrets: neither in its text nor in what caused it."""

    @wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> T:
        try:
            return function(*args, **keywords)
        except Exception as error:
            mask_error(error)
            raise

    return call


def mask_error(error: BaseException) -> None:
    """Mask secrets in an exception, and cut off causes that hold any: their own texts are libraries'."""
    error.args = tuple(scrub_all(list(error.args)))
    inner: BaseException | None = error
    while inner is not None:
        cause = inner.__cause__ or inner.__context__
        if cause is not None and scrub(str(cause)) != str(cause):
            inner.__cause__ = inner.__context__ = cause = None
        inner = cause


class SettingsError(KitError):
    """A setting that is unknown, malformed, without effect, or at odds with another one."""


class RegistryError(KitError):
    """A registry entry, or a file that does not match its entry."""


class StoreError(KitError):
    """A source or a store that cannot be read, reconciled or trained on."""


class UnavailableError(StoreError):
    """A source that did not answer, or not in full, however often it was asked; what was read of it stays read."""


class CheckpointError(KitError):
    """A checkpoint folder or a weights file that cannot be loaded as asked."""


class WorkerError(KitError):
    """A process that read data is gone."""


class OutOfMemoryError(KitError):
    """Memory that was not to be had, on a GPU or on the host."""


def refusal_of(error: BaseException) -> str | None:
    """Explain what the machine refused: any OSError, or a full disk in whatever words a library reports it.

    Returns:
        The explanation; None for defects.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if any(words in text for words in _FULL):
            return f"no space left while writing: {text}. Free some, or choose another folder"
        # An OSError further down is a library's affair: what it raised of it says more.
        if isinstance(cause, OSError) and cause is error:
            words = cause.strerror or text
            return f"{words}: {cause.filename}" if cause.filename else words
        cause = cause.__cause__ or cause.__context__
    return None

"""Files of a model hub: their addresses, and the hub's own record of them.

``huggingface_hub`` knows the addresses, the token and the meaning of the headers; the bytes come through the kit's
own download, which resumes them and checks them against the registry.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kit.io.errors import RegistryError
from kit.io.progress import ProgressCallback
from kit.io.retry import RETRY_STATUS, Limits, RetryableError, SourceError, patiently, reason, retry_after, within
from kit.io.secrets import remember_secret
from kit.registry.entry import HUB, Entry, HubFile

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


@dataclass(frozen=True)
class HubFacts:
    """The hub's own record of a file.

    Attributes:
        sha256: SHA-256, which it has of large files.
        git_blob: Git object id, which it has of small ones.
        size: Length in bytes, if it is known.
    """

    sha256: str | None
    git_blob: str | None
    size: int | None

    def marks(self) -> dict[str, str | int]:
        """Return what is known, by the names of an entry's fields."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def endpoint() -> str:
    """Return the hub's address: ``HF_ENDPOINT`` as it is now, else the public one.

    Raises:
        RegistryError: the variable holds no address.
    """
    from huggingface_hub import constants

    # As it is now: the library reads the variable once, at its import.
    chosen = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    parts = urlsplit(chosen)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        msg = f"HF_ENDPOINT is no address of a hub: expected https://HOST, got {chosen.rpartition('@')[2]!r}"
        raise RegistryError(msg)
    return chosen


def address(file: HubFile) -> str:
    """Return the address of a file at its commit."""
    from huggingface_hub import hf_hub_url

    return str(hf_hub_url(file.repo, file.path, revision=file.revision, endpoint=endpoint()))


def token() -> str | None:
    """Return the user's token: ``HF_TOKEN``, else what ``hf auth login`` stored."""
    from huggingface_hub import get_token

    found = get_token()
    if found:
        # As it may lie in a file, its value is not known otherwise.
        remember_secret(found)
    return found


def facts(file: HubFile, limits: Limits, watch: ProgressCallback) -> HubFacts:
    """Ask the hub for its record of a file, without the bytes.

    Raises:
        SourceError: the hub has no such file, does not give it to this user, or keeps failing; says which.
    """
    return patiently(lambda: _ask(file, limits), limits, watch)


def stated(entry: Entry, limits: Limits, watch: ProgressCallback) -> tuple[HubFacts, str] | None:
    """Ask the hubs among an entry's addresses for the hash of its file at the commit that the address names.

    Args:
        entry: Entry without a hash.
        limits: Patience with the hub.
        watch: Receiver of what goes wrong meanwhile.

    Returns:
        A record that has a hash, and the address that it is of; None if no hub among the addresses has one.

    Raises:
        RegistryError: no hub gives the file, and no other address could; or it has one of another size.
    """
    failures: list[str] = []
    for url in entry.urls:
        if offline() or not url.startswith(f"{HUB}:"):
            continue
        try:
            found = facts(HubFile.of(url), limits, watch)
        except SourceError as error:
            failures.append(f"{url}: {error}")
            continue
        if entry.size is not None and found.size not in (None, entry.size):
            msg = f"{entry.name}: the hub says {found.size} bytes, the registry {entry.size}; nothing was recorded"
            raise RegistryError(msg)
        size = found.size or entry.size
        # An entry with a SHA-256 must have a size.
        if found.git_blob is not None or (found.sha256 is not None and size is not None):
            return replace(found, size=size), url
    if failures and len(failures) == len(entry.urls):
        tried = "\n  ".join(failures)
        msg = (
            f"{entry.name}: no hub could be asked for its hash, and nothing was recorded:\n  {tried}\nTry again, or "
            "give the path of a file that you trust in the place of this name"
        )
        raise RegistryError(msg)
    return None


def _ask(file: HubFile, limits: Limits) -> HubFacts:
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    # What its client raises where no answer came: the base is shared, and its library is not ours to name.
    no_answer: type[BaseException] = HfHubHTTPError.__mro__[1]
    ask = partial(
        get_hf_file_metadata,
        address(file), token=token() or False, timeout=limits.connect, endpoint=endpoint(), retry_on_errors=False,
    )  # fmt: skip
    try:
        answer = within(limits.connect + limits.read, ask)
    except HfHubHTTPError as error:
        raise _refusal(file, error) from None
    except no_answer as error:
        msg = f"{endpoint()}: {reason(error)}"
        raise RetryableError(msg) from error
    except (ImportError, ValueError) as error:
        # Its client reads the proxies' variables by itself; its text may hold their passwords.
        msg = f"{endpoint()}: a proxy variable (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) is not understood"
        raise SourceError(msg) from error
    # A pin is recorded from this answer: without a hash so far, nothing later would notice another commit.
    if answer.commit_hash is not None and answer.commit_hash != file.revision:
        msg = f"the hub answers for commit {answer.commit_hash}, not for {file.revision}"
        raise SourceError(msg)
    # The ETag of a large file is its SHA-256, of a small one its git object id; a mirror of a hub may have others.
    etag = answer.etag or ""
    return HubFacts(
        sha256=etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None,
        git_blob=etag if re.fullmatch(r"[0-9a-f]{40}", etag) else None,
        size=answer.size,
    )


def _refusal(file: HubFile, error: HfHubHTTPError) -> Exception:
    """Explain a hub's refusal. Its own text is not repeated: it may hold addresses with signatures."""
    from huggingface_hub import errors

    where, login = f"{endpoint()}/{file.repo}", "set HF_TOKEN or run `hf auth login`"
    known, advice = "your token does not give it", ""
    if not token():
        known, advice = "you are not logged in", f"; if it is private, {login}"
    refusals = (
        # GatedRepoError is a RepositoryNotFoundError, too: it comes first.
        (errors.GatedRepoError, f"is gated, and {known}: accept its conditions on that page, then {login}"),
        (errors.RevisionNotFoundError, f"has no commit {file.revision}"),
        (errors.RepositoryNotFoundError, f"is not there, or not for you{advice}"),
        (errors.EntryNotFoundError, f"has no {file.path} at commit {file.revision}"),
    )
    for kind, refusal in refusals:
        if isinstance(error, kind):
            return SourceError(f"{where} {refusal}")
    status = error.response.status_code
    msg = f"{endpoint()}: the hub answered {status}"
    if status in RETRY_STATUS:
        return RetryableError(msg, retry_after(error.response.headers))
    return SourceError(msg)


def offline() -> bool:
    """Read ``HF_HUB_OFFLINE``, which asks to leave the hub alone."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}

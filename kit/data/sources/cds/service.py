"""Jobs of a data store, through its client: submit, ask, and understand what it refuses.

The client (``ecmwf-datastores-client``) speaks the protocol; here its answers become the kit's: what may go better the
next time is tried again with the registry's patience, everything else is one message that says what to do. Its own
way would wait two minutes between 500 tries, and forget a job when the process ends (docs/decisions.md, 2026-11-22).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import requests
import requests.exceptions as failures

from kit.data.sources.cds.access import Access
from kit.io.errors import KitError, SettingsError, StoreError, UnavailableError
from kit.io.progress import ProgressCallback
from kit.io.retry import RETRY_STATUS, Limits, RetryableError, SourceError, patiently, reason, retry_after

if TYPE_CHECKING:
    from ecmwf.datastores import Client, Remote

_GONE = (404, 410)
_MAX_WORDS = 1500
"""Characters of a server's words that are shown."""
_MAX_LOOKED_AT = 30
"""Jobs that are looked at for one that may be there already."""

_STANDING: list[Literal["accepted", "running", "successful", "failed", "rejected"]]
_STANDING = ["accepted", "running", "successful"]
"""States of jobs that are worth waiting for."""

T = TypeVar("T")


@dataclass(frozen=True)
class State:
    """What has become of a job.

    Attributes:
        name: ``accepted``, ``running``, ``successful``, ``failed``, ``rejected``, or ``gone`` where the data store no
            longer knows it.
        words: the data store's own, where it failed or was rejected.
    """

    name: str
    words: str = ""


@dataclass(frozen=True)
class Result:
    """Where the file of a job lies, and how many bytes it has."""

    url: str
    size: int


def load_client() -> Any:
    """Import the data stores' client.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        from ecmwf import datastores
    except ImportError as error:
        msg = (
            f"--source cds needs the package ecmwf-datastores-client, which cannot be imported ({error}); install it "
            'with: pip install "aurora-finetune-kit[cloud,grib]"'
        )
        raise SettingsError(msg) from error
    return datastores


class Service:
    """One data store, and the jobs of one user there."""

    def __init__(self, access: Access, limits: Limits, watch: ProgressCallback) -> None:
        self.access = access
        self._limits = limits
        self._watch = watch
        self._remotes: dict[str, Remote] = {}
        self._passed_on: set[str] = set()
        with warnings.catch_warnings():
            # It warns if it cannot read the news of the day; the first request says it better.
            warnings.simplefilter("ignore")
            self._client: Client = load_client().Client(
                url=access.url,
                key=access.key,
                timeout=(limits.connect, limits.read),
                progress=False,
                # Patience is the kit's: the client would wait 120 s and try 500 times.
                maximum_tries=1,
                retry_after=0,
                log_callback=self._heard,
            )

    def submit(self, dataset: str, inputs: Mapping[str, Any]) -> str:
        """Put a request into the queue.

        A submission whose answer is lost may have arrived: before it is tried again, it is looked for.

        Returns:
            The job's id.

        Raises:
            SettingsError: the key is refused, a licence is not accepted, or there is no such data set.
            StoreError: the request is refused.
            UnavailableError: nobody answers.
        """
        doubtful = False

        def run() -> str:
            nonlocal doubtful
            known = self.find(dataset, inputs) if doubtful else None
            if known is not None:
                return known
            process = self._client.get_process(dataset)
            # From here on the request may have arrived, whatever the answer.
            doubtful = True
            remote = process.submit(dict(inputs))
            self._remotes[remote.request_id] = remote
            return remote.request_id

        return self._call(run, dataset)

    def find(self, dataset: str, inputs: Mapping[str, Any]) -> str | None:
        """Look among the user's latest jobs for one of the same request; None if there is none."""

        def request_of(job: str) -> dict[str, list[str]]:
            self._remotes[job] = self._client.get_remote(job)
            return _comparable(self._remotes[job].request)

        jobs = self._call(lambda: self._client.get_jobs(limit=100, sortby="-created", status=_STANDING).json, dataset)
        ids = [str(job.get("jobID")) for job in jobs.get("jobs", []) if job.get("processID") == dataset]
        # The list says of jobs only which data set they are of: each is asked for its request.
        for job in ids[:_MAX_LOOKED_AT]:
            if self._call(partial(request_of, job), dataset) == _comparable(inputs):
                return job
        return None

    def state(self, job: str, dataset: str) -> State:
        """Ask what has become of a job.

        Raises:
            SettingsError: the key is refused.
            UnavailableError: nobody answers.
        """

        def run() -> State:
            try:
                if job not in self._remotes:
                    self._remotes[job] = self._client.get_remote(job)
                name = self._remotes[job].status
            except failures.HTTPError as error:
                if error.response is None or error.response.status_code not in _GONE:
                    raise
                return State("gone", _words(error.response))
            if name in ("failed", "rejected"):
                return State(name, self._why(job))
            if name in ("accepted", "running", "successful"):
                return State(name)
            # Dismissed, deleted, or a state that no protocol knows.
            return State("gone")

        return self._call(run, dataset)

    def result(self, job: str, dataset: str) -> Result | None:
        """Ask where the file of a successful job lies; None if it is no longer there.

        Raises:
            StoreError: the answer makes no sense.
            UnavailableError: nobody answers.
        """

        def run() -> Result | None:
            try:
                results = self._remotes[job].get_results()
            except failures.HTTPError as error:
                if error.response is None or error.response.status_code not in _GONE:
                    raise
                return None
            return Result(results.location, results.content_length)

        return self._call(run, dataset)

    def forget(self, job: str) -> None:
        """Drop what is known of a job."""
        self._remotes.pop(job, None)

    def _why(self, job: str) -> str:
        """Ask for a failed job's own words, which are where its results would be."""
        try:
            self._remotes[job].get_results()
        except failures.HTTPError as error:
            # Not the job's failure, but the server's: asked again.
            if error.response is None or error.response.status_code in RETRY_STATUS:
                raise
            return _words(error.response)
        except RuntimeError as error:
            return str(error)[:_MAX_WORDS]
        return "it does not say why"

    def _call(self, run: Callable[[], T], dataset: str) -> T:
        """Call the client until it is answered."""
        try:
            return patiently(lambda: self._call_once(run, dataset), self._limits, self._watch)
        except SourceError as error:
            raise UnavailableError(str(error)) from error

    def _call_once(self, run: Callable[[], T], dataset: str) -> T:
        """Call the client, and turn its failures into the kit's."""
        try:
            return run()
        except KitError:
            raise
        except failures.HTTPError as error:
            if error.response is None:
                raise
            if error.response.status_code in RETRY_STATUS:
                msg = f"{self.access.host} answered {error.response.status_code} ({error.response.reason})"
                raise RetryableError(msg, retry_after(error.response.headers)) from error
            raise self._refusal(error.response, dataset) from error
        except (failures.InvalidURL, failures.InvalidSchema, failures.TooManyRedirects) as error:
            msg = f"{self.access.url}: {type(error).__name__}; mend the address in {self.access.where}"
            raise SettingsError(msg) from error
        # What the client raises for an answer that is no JSON, or lacks what it should hold.
        except (failures.JSONDecodeError, KeyError, AssertionError, TypeError, ValueError) as error:
            msg = (
                f"{self.access.host} answered something that is not the data stores' protocol "
                f"({type(error).__name__}); is its address in {self.access.where} right, {self.access.url}?"
            )
            raise StoreError(msg) from error
        except failures.RequestException as error:
            msg = f"{self.access.host}: {reason(error)}"
            raise RetryableError(msg) from error

    def _refusal(self, answer: requests.Response, dataset: str) -> KitError:
        """Say what a refusal means, with what to do about it."""
        words, host, site = _words(answer), self.access.host, self.access.site
        if answer.status_code == 401:
            return SettingsError(
                f"{host} does not know the key in {self.access.where}: {words}. Copy it anew from {site}/profile"
            )
        if answer.status_code == 403 and "licence" in words.lower():
            return SettingsError(
                f"{host} wants the licence of {dataset} to be accepted once: log in, open "
                f"{site}/datasets/{dataset}?tab=download#manage-licences, accept it there, and run the same command "
                f"again. In its words: {words}"
            )
        # The cost of a request is not published; the data stores' words are all there is.
        if "cost limit" in words.lower() or "too large" in words.lower():
            return StoreError(
                f"{host} finds the request to {dataset} too large: {words}. Ask for fewer variables, levels or times, "
                "or a smaller --region"
            )
        if answer.status_code == 404:
            return SettingsError(f"{host} has no data set {dataset}: {words}. See {site}/datasets for those it has")
        if answer.status_code == 403:
            return SettingsError(f"{host} refuses {dataset} to this user: {words}. See {site}/profile")
        return StoreError(f"{host} refuses the request to {dataset} ({answer.status_code}): {words}")

    def _heard(self, level: int, text: str) -> None:
        """Pass on what the data store says to its users, once."""
        # The client's own chatter is below warnings.
        if level >= logging.WARNING and text not in self._passed_on:
            self._passed_on.add(text)
            self._watch.said(f"{self.access.host}: {text[:_MAX_WORDS]}")


def _words(answer: requests.Response) -> str:
    """Read what an error's body says: title, detail and traceback of RFC 7807, else its beginning."""
    try:
        body = answer.json()
        parts = [body.get("title"), body.get("detail"), body.get("traceback")]
    except (ValueError, AttributeError):
        parts = [answer.text.strip()[:200] or answer.reason]
    return ": ".join(str(part).strip() for part in parts if part)[:_MAX_WORDS] or str(answer.reason)


def _comparable(inputs: Mapping[str, Any]) -> dict[str, list[str]]:
    """Write a request so that two that ask the same are equal; a single value may be written as a list of one."""
    comparable = {}
    for key, value in inputs.items():
        if not isinstance(value, list | tuple):
            value = [value]  # noqa: PLW2901
        if key == "area":
            # In order, and in any form of number; all others are sets.
            comparable[key] = [f"{float(part):g}" for part in map(str, value)]
        else:
            comparable[key] = sorted(map(str, value))
    return comparable

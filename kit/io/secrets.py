"""Masks for passwords, tokens and keys, which must never reach a log, a file or a tracking server."""

import re
from collections.abc import Sequence
from itertools import pairwise

MASK = "***"
"""Stands where a secret was."""

# Names are compared word by word: max_tokens counts something, and monkey holds a key.
_SECRET_WORDS = frozenset(
    {"accesskey", "apikey", "credential", "credentials", "passwd", "password", "secret", "secrets", "token"}
)
_SECRET_PAIRS = frozenset({("access", "key"), ("api", "key"), ("private", "key"), ("secret", "key")})
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")

# The scheme is bounded: without a bound, a long text of letters would be searched from each letter to its end.
_USER_INFO = re.compile(r"([a-z][a-z0-9+.-]{0,30}://)[^/\s'\"]+@", re.IGNORECASE)
_SERVER = re.compile(rf"^(https?://){re.escape(MASK)}@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:access_?key|api_?key|credential|passw(?:or)?d|secret|sig|signature|token)=)[^&;\s'\"]+",
    re.IGNORECASE,
)
# Prefixes of tokens of Hugging Face, GitHub, GitLab and OpenAI.
_ISSUED = re.compile(r"\b(hf_|gh[opsu]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{16,}")


def is_secret_name(name: str) -> bool:
    """Check whether a setting or a flag of this name holds a secret (``hub.token``, ``--api-key``, ``cdsPassword``).

    Whole words decide: ``max_tokens`` and ``monkey`` are no secrets.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    return not _SECRET_WORDS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(pairwise(words))


def scrub(text: str) -> str:
    """Mask what looks like a secret inside a text.

    Masked are ``user:password@`` of an address, secret query parameters, and tokens that their issuer
    marks with a known prefix. Everything else stays as it is.
    """
    text = _USER_INFO.sub(rf"\1{MASK}@", text)
    text = _QUERY.sub(rf"\1{MASK}", text)
    return _ISSUED.sub(rf"\1{MASK}", text)


def without_user(address: str) -> str:
    """Return the address of a server fit to be kept: without ``user:password@``, which variables may still supply.

    The address of a database keeps a mask in its place, because it means nothing without them.
    """
    return _SERVER.sub(r"\1", scrub(address))


def scrub_argv(argv: Sequence[str]) -> list[str]:
    """Mask secrets in a command line, in both forms ``--hub.token VALUE`` and ``--hub.token=VALUE``."""
    scrubbed: list[str] = []
    hide_next = False
    for argument in argv:
        flag, equals, _ = argument.partition("=")
        names_secret = flag.startswith("-") and is_secret_name(flag)
        if names_secret and equals:
            scrubbed.append(f"{flag}={MASK}")
        # A flag without a value is followed by the next flag, which is no secret.
        elif hide_next and not argument.startswith("--"):
            scrubbed.append(MASK)
        else:
            scrubbed.append(scrub(argument))
        hide_next = names_secret and not equals
    return scrubbed

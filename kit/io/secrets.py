"""Masks for passwords, tokens and keys, which must never reach a log, a file or a tracking server.

A secret is known in one of two ways. Its value is known: variables of the environment whose names say so, and
addresses among settings and arguments, are taken apart, and their secrets are masked wherever they turn up, in any
spelling. Or its place shows it: in an address, behind a name, in a header, or by the prefix that its issuer gives it.
"""

import base64
import binascii
import html
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
"""Stands where a secret was."""

# Names are compared word by word: max_tokens counts something, and monkey holds a key.
_SECRET_WORDS = frozenset(
    "accesskey apikey authorization cookie credential credentials passphrase passwd password pwd secret secrets "
    "token".split()
)
_BEFORE_KEY = frozenset("access account api encryption private secret shared signing storage subscription".split())
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
# In the query of an address, and at the end of a variable's name, shorter words say it as well.
_SHORT_WORDS = frozenset("auth hmac jwt key keyid odbc pass pat sas session sid sig signature".split())
_ENDINGS = tuple(
    "accesskey accesskeyid apikey credential passwd password pw pwd secret sessionid signature token".split()
)

# The scheme is bounded: without a bound, a long text of letters would be searched from each letter to its end.
_SCHEME = r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://"
_BEGINNING = re.compile(_SCHEME, re.IGNORECASE)
_LINE_END = re.compile(r"[\r\n]")
_SPACE = re.compile(r"[\s<>]")
_SERVER = re.compile(rf"^(https?://){re.escape(MASK)}@", re.IGNORECASE)
_PORT = re.compile(r"(?:localhost|[\w-]*\.[\w.-]*):\d{1,5}$")
_USER_COLON = re.compile(r"[^/?#\s@:,]{0,64}:(?!\d{1,5}(?:[/?#]|$))[^\s,]{0,64}")
_ONLY_PORT = re.compile(r"\d{1,5}(?:[/?#].*|[.,:;)]?)$")
_HOST = re.compile(r"(?:localhost|[\w-]+(?:\.[\w-]+)+|[\w.-]+:\d{1,5}|\[[0-9a-f:.]+\](?::\d{1,5})?)$", re.IGNORECASE)
_PARAMETER = re.compile(r"[?&;#]([\w.%-]{1,80})=")
_NEXT_PARAMETER = re.compile(r"&[\w.%-]{1,80}=|[\s\"'<>]")

# 'NAME': 'VALUE' and "NAME": "VALUE" as JSON, Python and TOML write them, also inside another text of JSON.
_QUOTED = re.compile(
    r"(?P<start>(?<!\\)(?P<open>\\{0,8}[\"'])(?P<name>[\w.-]{1,80})(?P=open)\s*[:=,]\s*b?(?P<close>\\{0,8}[\"']))"
    r"(?P<value>.{0,8192}?)(?P<end>(?<!\\)(?P=close))",
    re.DOTALL,
)
# NAME=VALUE; with spaces around the sign, and after a colon, a word without quotes and digits is no value.
_ASSIGNED = re.compile(
    r"(?<![\w.-])(?P<start>(?P<name>[\w.-]{1,80})"
    r"(?:=|\s{0,8}=\s{0,8}(?=[\"']|\S*\d)|:[ \t]{1,8}(?=\S*\d)(?![\w.-]{1,80}=[^=\s])))"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|(?:(?:Bearer|Basic)\s+)?[^\s,;&'\"]+)"
)
# A line of .netrc.
_LOGIN = re.compile(r"\b(login\s{1,8}\S{1,80}\s{1,8}password\s{1,8})\S+")
_HEADERS = frozenset("authorization cookie private-token proxy-authorization set-cookie x-api-key x-auth-token".split())
_HEADER = re.compile(rf"(?<![\w-])((?:{'|'.join(_HEADERS)})\s*:\s*)[^\r\n\"']+", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer\s+)(?=\S*[\d._~+/=-]|\S{20})[\w.~+/=-]{8,}", re.IGNORECASE)
_BASIC = re.compile(r"\b(Basic\s+)([A-Za-z0-9+/]{6,}={0,2})", re.IGNORECASE)

# Prefixes that issuers give their tokens: Hugging Face, GitHub, GitLab, OpenAI, npm, PyPI, Slack (with its web hooks),
# Stripe, Vault, SendGrid, Databricks, Amazon (docs.aws.amazon.com, IAM identifiers), Google, and JSON Web Tokens
# (RFC 7519), whose header begins with {".
_ISSUED = re.compile(
    r"\b(?:(hf_|gh[opsur]_|github_pat_|glpat-|sk-|npm_|pypi-|xox[abeprs]-)[A-Za-z0-9_-]{16,}"
    r"|(hooks\.slack\.com/services/)[A-Za-z0-9/]{16,}"
    r"|([rs]k_(?:live|test)_|hvs\.|SG\.)[A-Za-z0-9_.-]{16,}"
    r"|(dapi)[0-9a-f]{32}(?:-\d+)?"
    r"|(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}"
    r"|(AIza)[A-Za-z0-9_-]{35}"
    r"|(ya29\.)[A-Za-z0-9_-]{16,}"
    r"|(eyJ)[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"
)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|$)", re.DOTALL)

_remembered: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Check whether a setting or a flag of this name holds a secret (``hub.token``, ``--api-key``, ``cdsPassword``).

    Whole words decide: ``max_tokens`` and ``monkey`` are no secrets.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    keys = {before for before, word in pairwise(words) if word == "key"}
    return not _SECRET_WORDS.isdisjoint(words) or not _BEFORE_KEY.isdisjoint(keys)


def scrub(text: str) -> str:
    """Mask the secrets in a text; everything else stays as it is.

    Masked are the values of known secrets, ``user:password@`` of addresses, secret parameters in their queries and
    fragments, values behind secret names, HTTP's headers of authorization and cookies, and tokens that their issuer
    marks with a known prefix.
    """
    known = _known(frozenset(_remembered), tuple(os.environ.items()))
    if known is not None:
        text = known.sub(MASK, text)
    text = _scrub_addresses(text)
    text = _scrub_parameters(text)
    text = _QUOTED.sub(_mask_quoted, text)
    text = _ASSIGNED.sub(_mask_assigned, text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _LOGIN.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _BASIC.sub(_mask_basic, text)
    text = _ISSUED.sub(lambda match: f"{match[match.lastindex or 0]}{MASK}", text)
    return _PRIVATE_KEY.sub(rf"\1{MASK}", text)


def scrub_all(content: Any) -> Any:
    """Mask the secrets in all texts of a result: of a mapping's values, of a list's items, at every depth."""
    if isinstance(content, str):
        return scrub(content)
    if isinstance(content, Mapping):
        return {name: scrub_all(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [scrub_all(value) for value in content]
    return content


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
        flag, equals, value = argument.partition("=")
        is_flag = flag.startswith("-")
        names_secret = is_flag and is_secret_name(flag)
        if names_secret and equals:
            scrubbed.append(f"{flag}={MASK}")
        # A flag without a value is followed by the next flag, which is no secret.
        elif hide_next and not argument.startswith("--"):
            scrubbed.append(MASK)
        elif is_flag and equals:
            scrubbed.append(f"{flag}={scrub(value)}")
        else:
            scrubbed.append(scrub(argument))
        hide_next = names_secret and not equals
    return scrubbed


class MaskedFormatter(logging.Formatter):
    """Formatter of log records that masks the secrets in them, in tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        return scrub(super().format(record))


# Secrets whose values are known.


def remember(value: str) -> None:
    """Note the secrets in the value of a setting or an argument, so that they are masked wherever they turn up.

    Args:
        value: Whole value. Addresses are taken apart; any other value holds nothing that would have to be noted.
    """
    _remembered.update(secrets_in(value))


def remember_secret(secret: str) -> None:
    """Note a value that is a secret as a whole, such as a key that was read from a file."""
    if _is_worth_hiding(secret):
        _remembered.add(secret)


def secrets_in(value: str) -> set[str]:
    """Return the secrets in the addresses and connection strings of a value.

    These are passwords and tokens before a host, secret parameters, and what stands behind a secret name.

    An address that is not written as it should be, as with a slash in a password, can be read in more than one way:
    what is secret in any of them is returned.
    """
    found: set[str] = set()
    for beginning, content in _addresses(value):
        # Several addresses are parted by commas or spaces.
        rest = content.rstrip(",; ")
        ends = {_end_of_user(beginning[0], rest), re.split(r"[/?#]", rest)[0].rfind("@")}
        for end in ends - {-1}:
            user, colon, password = rest[:end].partition(":")
            found.add(password if colon else user)
            # In a header, user and password are one.
            found.add(base64.b64encode(unquote(rest[:end]).encode()).decode())
        found |= {rest[begin:end] for begin, end in _secret_parameters(rest)}
    # A parameter of an address may hold a connection string in its turn.
    for text in (value, unquote(value)):
        for match in (*_QUOTED.finditer(text), *_ASSIGNED.finditer(text)):
            if is_secret_name(match["name"]):
                found.add(match["value"].strip("\"'"))
    found |= {issued[0].removeprefix(issued[issued.lastindex or 0]) for issued in _ISSUED.finditer(value)}
    # A line of a private key is as secret as the whole; in JSON, its ends of lines are escaped.
    for private_key in _PRIVATE_KEY.finditer(value.replace("\\n", "\n")):
        found.update(private_key[0].splitlines()[1:])
    return set(filter(_is_worth_hiding, found))


@lru_cache(maxsize=4)
def _known(remembered: frozenset[str], environment: Iterable[tuple[str, str]]) -> re.Pattern[str] | None:
    """Compile a pattern of all known secrets, in all spellings; None where there is none."""
    found = set(remembered)
    for name, value in environment:
        words = [word.lower() for word in _WORD.findall(name)]
        if is_secret_name(name) or (words and (words[-1] in _SHORT_WORDS or _ends_secretly(words[-1]))):
            # Some name the file of a secret.
            if _is_worth_hiding(value) and not (os.sep in value and Path(value).exists()):
                found |= {value, *_parts(value)}
        else:
            # A proxy may be written without its scheme.
            is_proxy = bool(words) and words[-1] == "proxy"
            found |= secrets_in(f"http://{value}" if is_proxy and "://" not in value else value)
    spellings: set[str] = set()
    for secret in found:
        for plain in (secret, unquote(secret)):
            spellings |= {plain, quote(plain), quote(plain, safe=""), quote_plus(plain), html.escape(plain)}
            spellings |= {json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], repr(plain)[1:-1]}
            spellings.add(base64.b64encode(plain.encode()).decode())
    longest_first = sorted(filter(None, spellings), key=len, reverse=True)
    if not longest_first:
        return None
    # A password that is a common word is masked where it stands by itself.
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])")


def _parts(secret: str) -> set[str]:
    """Return the parts of a secret that are secrets by themselves: the key of ``USER:KEY``, a private key in JSON."""
    _, _, key = secret.partition(":")
    return {*filter(_is_worth_hiding, [key]), *secrets_in(secret)}


def _is_worth_hiding(value: str) -> bool:
    """Check whether a value can be told from ordinary words and numbers; short ones are masked in their place alone."""
    is_mixed = any(map(str.isalpha, value)) and not value.isalpha()
    return len(value) >= 8 or (len(value) >= 4 and is_mixed)


# Secrets in addresses.


def _scrub_addresses(text: str) -> str:
    parts: list[str] = []
    done = 0
    for beginning, content in _addresses(text):
        stop, rest = beginning.end() + len(content), content
        parts += [text[done : beginning.start()], beginning[0]]
        end = _end_of_user(beginning[0], rest)
        if end >= 0:
            parts.append(f"{MASK}@")
            rest = rest[end + 1 :]
        parts.append(_scrub_parameters(rest))
        done = stop
    return "".join([*parts, text[done:]])


def _addresses(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Find the addresses in a text: the match of the scheme with its ``://``, and what follows up to its end."""
    beginnings: list[re.Match[str]] = []
    for found in _BEGINNING.finditer(text):
        # Behind a user's name and its colon stands a password, whatever it looks like; a port is none.
        if not beginnings or not _USER_COLON.fullmatch(text, beginnings[-1].end(), found.start()):
            beginnings.append(found)
    # An address ends before the next one, so that no part of a long text is searched twice.
    limits = [beginning.start() for beginning in beginnings[1:]] + [len(text)]
    for beginning, limit in zip(beginnings, limits, strict=False):
        stop = _end_of_address(text, beginning.start(), beginning.end(), limit)
        yield beginning, text[beginning.end() : stop]


def _end_of_address(text: str, start: int, begin: int, limit: int) -> int:
    """Find where an address ends: at the quote that closes it, with the line, or before a space.

    Args:
        text: Text with the address.
        start: Index of its scheme.
        begin: Index behind ``://``.
        limit: Index that it ends before.
    """
    line = _LINE_END.search(text, begin, limit)
    stop = limit if line is None else line.start()
    opened = text[max(start - 1, 0) : start]
    if opened in ("'", '"', "`"):
        # A quote before a letter belongs to the password. Inside another text of JSON, the quote that opens is escaped,
        # and so is the one that closes.
        escape = r"\\" if text[max(start - 2, 0) : start - 1] == "\\" else r"(?<!\\)"
        closing = re.compile(rf"{escape}{opened}(?!\w)").search(text, begin, stop)
        return stop if closing is None else closing.start()
    space = _SPACE.search(text, begin, stop)
    # A text that is an address from its beginning is a value, and may hold spaces.
    if space is None or "@" not in text[space.start() : stop] or (start > 0 and "@" in text[begin : space.start()]):
        return stop if space is None else space.start()
    # A password with a space in it: nothing else has a name, a colon, no port, and an @ further on.
    head = text[begin : space.start()]
    user, colon, password = head.partition(":")
    begins_with_user = start == 0 or (colon and not re.search(r"[/?#]", user))
    return stop if begins_with_user and not _ONLY_PORT.match(password) else space.start()


def _end_of_user(scheme: str, rest: str) -> int:
    """Find the @ that ends ``user:password`` in what follows an address's ``://``; -1 if there is none.

    RFC 3986 ends the host's part at the first of / ? #. A password that holds one of them unescaped is still one.
    """
    last = rest.rfind("@")
    head = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if last < 0 or not head or scheme.lower() == "file://":
        return -1
    end = head.rfind("@")
    if end >= 0:
        # Another @ further on belongs to a path behind a host, or else to the password.
        return end if last == end or _HOST.match(head[end + 1 :]) else last
    user, colon, _ = head.partition(":")
    if not colon or user.startswith("[") or _PORT.match(head):
        return -1
    return last


def _secret_parameters(rest: str) -> list[tuple[int, int]]:
    """Find the values of secret parameters, such as ``sig`` in ``/states.zarr?part=1&sig=abc``, from first to end."""
    found: list[tuple[int, int]] = []
    for parameter in _PARAMETER.finditer(rest):
        words = [word.lower() for word in _WORD.findall(unquote(parameter[1]))]
        begin = parameter.end()
        is_secret = is_secret_name(parameter[1]) or not _SHORT_WORDS.isdisjoint(words)
        if (is_secret or any(map(_ends_secretly, words))) and (not found or begin >= found[-1][1]):
            following = _NEXT_PARAMETER.search(rest, begin)
            found.append((begin, following.start() if following else len(rest)))
    return found


def _ends_secretly(word: str) -> bool:
    return word.endswith(_ENDINGS)


def _scrub_parameters(text: str) -> str:
    parts: list[str] = []
    done = 0
    for begin, end in _secret_parameters(text):
        if end > begin:
            parts += [text[done:begin], MASK]
            done = end
    return "".join([*parts, text[done:]])


# Secrets behind names and in headers.


def _mask_quoted(match: re.Match[str]) -> str:
    is_header = match["name"].lower() in _HEADERS
    # A comma parts name and value of a header; elsewhere it parts two names.
    is_pair = "," not in match["start"]
    masked = f"{match['start']}{MASK}{match['end']}"
    return masked if is_header or (is_pair and is_secret_name(match["name"])) else match[0]


def _mask_assigned(match: re.Match[str]) -> str:
    if not is_secret_name(match["name"]):
        return match[0]
    marks = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match['start']}{marks}{MASK}{marks}"


def _mask_basic(match: re.Match[str]) -> str:
    """Mask what is USER:PASSWORD in base64; basic calculations are not."""
    try:
        is_secret = b":" in base64.b64decode(match[2], validate=True)
    except binascii.Error:
        is_secret = False
    return f"{match[1]}{MASK}" if is_secret else match[0]

from __future__ import annotations

import base64
import html
import json
import logging
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.io import secrets
from kit.io.errors import KitError, masked
from kit.io.secrets import (
    MaskedFormatter,
    is_secret_name,
    remember,
    remember_secret,
    scrub,
    scrub_all,
    scrub_argv,
    secrets_in,
    without_user,
)
from tests.everyday import one_in


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has remembered is nothing to the next."""
    monkeypatch.setattr(secrets, "_remembered", set())


# Long enough to be told from ordinary words, with all that is out of place in an address.
PASSWORDS = st.text("/'@:#?% \"\\&=;ab1é", min_size=6, max_size=12).map(lambda text: f"zq7{text}7qz")
SCHEMES = st.sampled_from(("postgresql://", "postgresql+psycopg2://", "mysql://", "https://", "http://", "s3://"))
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in an address": lambda text: quote(text, safe=""),
    "in a path": quote,
    "in a form": quote_plus,
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in JSON with letters": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "in Python": lambda text: repr(text)[1:-1],
    "in HTML": html.escape,
    "in base64": lambda text: base64.b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize(
    "name",
    ("hub.token", "--api-key", "CDS_API_KEY", "cdsPassword", "store.secret", "apikey", "AccountKey", "Authorization",
     "AWS_SECRET_ACCESS_KEY", "aws_access_key_id", "PGPASSWORD_PWD", "cookie"),
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ("max_tokens", "monkey", "train.seed", "key", "tokens_per_step", "loss.weights"))
def test_names_that_only_resemble_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("http://ann:pa55@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg://ann:p@ss@db/mlflow", "postgresql+psycopg://***@db/mlflow"),
        ("postgresql://ann:p/ss@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://ann:p'ss@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://ann:p ss@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://ann:p#s?s@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://ann:p%2Fs%40s@db/mlflow", "postgresql://***@db/mlflow"),
        ("https://ann:pa55@host.example/a@b", "https://***@host.example/a@b"),
        ("https://abcdef@host/x", "https://***@host/x"),
        ("http://a:b1@one/x,http://c:d2@two/y", "http://***@one/x,http://***@two/y"),
        ('{"uri":"http://a:b1@h","to":"me@there"}', '{"uri":"http://***@h","to":"me@there"}'),
        (r'{"inner": "{\"uri\": \"http://a:b1@h/x\"}"}', r'{"inner": "{\"uri\": \"http://***@h/x\"}"}'),
        ("cannot open postgresql://ann:p/s@db: refused", "cannot open postgresql://***@db: refused"),
        ("https://host/a?X-Amz-Signature=abc&part=2", "https://host/a?X-Amz-Signature=***&part=2"),
        ("https://host/a?sv=2020&sig=a%2Fb%3D&se=1", "https://host/a?sv=2020&sig=***&se=1"),
        ("https://host/a#access_token=abc&state=1", "https://host/a#access_token=***&state=1"),
        ("https://host/a?key=AbC", "https://host/a?key=***"),
        ("with url: /x?sas=abc (Caused by", "with url: /x?sas=*** (Caused by"),
        ("see hf_abcdefghijklmnopqrstu there", "see hf_*** there"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_***"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIA***"),
        ("dapi0123456789abcdef0123456789abcdef", "dapi***"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("{'Authorization': 'Basic YTpi', 'Accept': '*/*'}", "{'Authorization': '***', 'Accept': '*/*'}"),
        ("[(b'cookie', b'a=b')]", "[(b'cookie', b'***')]"),
        ("sent Bearer abc-123-def twice", "sent Bearer *** twice"),
        ("sent Basic YW5uOnBhNTU= twice", "sent Basic *** twice"),
        ("Set-Cookie: session=abc; Path=/", "Set-Cookie: ***"),
        ('{"token": "a\\"b", "key": "loss"}', '{"token": "***", "key": "loss"}'),
        ("host=db user=ann password=abc", "host=db user=ann password=***"),
        ('api_key = "a b"', 'api_key = "***"'),
        ("aws_secret_access_key = wJal7/b", "aws_secret_access_key = ***"),
        ("password: hunter2", "password: ***"),
        ("note: password=hunter2", "note: password=***"),
        ("Authorization=Bearer ab.cd", "Authorization=***"),
        ("machine host login ann password hunter2", "machine host login ann password ***"),
        ("AccountName=a;AccountKey=aGk7+/== x", "AccountName=a;AccountKey=*** x"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dann%3BPWD%3Dab1&x=1", "mssql+pyodbc:///?odbc_connect=***&x=1"),
        ("https://host/x;jsessionid=abc", "https://host/x;jsessionid=***"),
        ("https://hooks.slack.com/services/T0A1B2C3/B0A1B2C3/x1Y2", "https://hooks.slack.com/services/***"),
        ("sk_live_abcdefghijklmnop12", "sk_live_***"),
        ("SG.abcdefghijklmnop.qrstuvwx", "SG.***"),
        ("hvs.abcdefghijklmnopqrst", "hvs.***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
         "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----"),
    ),
)  # fmt: skip
def test_secrets_by_their_place(text: str, expected: str) -> None:
    assert scrub(text) == expected
    assert scrub(expected) == expected


@pytest.mark.parametrize(
    "text",
    (
        "sqlite:////data/runs/mlflow.db", "2020-01-01T00/2020-02-01T00", "2020-01-01 06:00:00+00:00", "a/b@c/d",
        "git+https://github.com/owner/repo@v1.2", "https://host.example:5000/x@v2", "http://localhost:8080/@vite/client",
        "hub:owner/repo@0123456789abcdef0123456789abcdef01234567/model.ckpt", "me@there.example", "file:///C:/a@b",
        "gs://bucket/1959-2023_01_10-wb13-6h.zarr", "https://host/a?page=2&part=3#top", "s3://bucket/a=b/c",
        "max_tokens=5, tokens: 3", '{"key": "loss", "value": 0.5, "step": 1}',
        "bearer authentication, Basic calculations",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "[('http://a.org/x','me@b.org')]",
        "the token is missing: log in", "cookie cutter", "KIT_CACHE=/data/cache", "Europe/Berlin", "C:\\data\\a.nc",
        "500,850 hPa", "z at 500 hPa: 49.8 m2/s2", "https://[::1]:5000/a@b", str(uuid.UUID(int=7)), "key=2t",
        "see http://host:5000: mail me@there.example", "the token: it is missing", "key: 12 values", "password = wrong",
    ),
)  # fmt: skip
def test_ordinary_text_stays(text: str) -> None:
    assert scrub(text) == text


@given(st.datetimes(), st.binary(min_size=32, max_size=32), st.lists(st.text("abz019._-", min_size=1), max_size=4))
def test_dates_hashes_and_paths_stay(moment: object, digest: bytes, parts: list[str]) -> None:
    for text in (str(moment), digest.hex(), "/".join(parts), f"https://host.example/{'/'.join(parts)}"):
        assert scrub(text) == text


@settings(max_examples=300)
@given(SCHEMES, PASSWORDS)
@example("https://", "zq71/2@b7qz")
@example("https://", "zq7111://7qz")
@example("postgresql://", "zq71:a://7qz")
@example("postgresql://", "zq7#;a://7qz")
def test_a_password_in_an_address_never_stays(scheme: str, password: str) -> None:
    for written in (password, quote(password, safe="")):
        address = f"{scheme}ann:{written}@db.example.org/mlflow"
        assert written not in scrub(address)
        assert written not in without_user(address)
        assert "zq7" not in scrub(address).replace(quote("zq7"), "zq7")
        assert scrub(address).endswith("@db.example.org/mlflow")


@settings(max_examples=200)
@given(PASSWORDS, st.sampled_from(("sig", "token", "X-Amz-Signature", "key", "sas", "api_key", "AWSAccessKeyId")))
def test_a_key_in_a_query_or_a_fragment_never_stays(password: str, name: str) -> None:
    written = quote(password, safe="")
    for mark in "?#&;":
        masked_text = scrub(f"https://host.example/a.nc?part=1{mark}{name}={written}&other=2")
        assert written not in masked_text
        assert masked_text.startswith("https://host.example/a.nc?part=1")
        assert masked_text.endswith("&other=2")


@settings(max_examples=200)
@given(SCHEMES, PASSWORDS, st.sampled_from(sorted(SPELLINGS)))
def test_what_was_remembered_is_masked_in_every_spelling(scheme: str, password: str, spelling: str) -> None:
    secrets._remembered.clear()
    remember(f"{scheme}ann:{password}@db.example.org/mlflow")
    written = SPELLINGS[spelling](password)
    assert scrub(f"before {written} after") == "before *** after"
    assert secrets_in(f"{scheme}ann:{password}@db.example.org/mlflow") >= {password}


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
@pytest.mark.parametrize(
    "variable",
    ("MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "ECMWF_DATASTORES_KEY", "AZURE_STORAGE_SAS",
     "GITHUB_PAT", "REDIS_AUTH", "DB_PASS"),
)  # fmt: skip
def test_variables_are_masked_in_every_spelling(variable: str, spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "tropical s'torm/7")
    written = SPELLINGS[spelling]("tropical s'torm/7")
    assert scrub(f"a tropical wind, not {written}.") == "a tropical wind, not ***."


@pytest.mark.parametrize(
    ("variable", "value", "secret"),
    (
        ("HTTPS_PROXY", "http://ann:pr0xy!pw@proxy:3128", "pr0xy!pw"),
        ("https_proxy", "ann:pr0xy!pw@proxy:3128", "pr0xy!pw"),
        ("DATABASE_URL", "postgresql://ann:p4ss/w@db/x", "p4ss/w"),
        ("KIT_TRACK__URI", "https://ann:p4ss@w@host", "p4ss@w"),
        ("KIT_HRRR_ARCHIVE", "aws,https://host/a?sig=5ecr3t,https://ann:p4ssw@host2", "p4ssw"),
        ("HTTPS_PROXY", "http://ann:pr0xy!pw@proxy:3128", base64.b64encode(b"ann:pr0xy!pw").decode()),
    ),
)
def test_addresses_in_variables_are_taken_apart(
    variable: str, value: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert scrub(f"refused: {secret}") == "refused: ***"


@pytest.mark.parametrize(
    ("variable", "value", "secret"),
    (
        ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=aGk7abc+/==;Suffix=b", "aGk7abc+/=="),
        ("ODBC_DSN", "Driver=x;Uid=ann;Pwd=od8c-pw;", "od8c-pw"),
        ("KIT_TRACK__URI", "mssql+pyodbc:///?odbc_connect=UID%3Dann%3BPWD%3Dod8c-pw", "od8c-pw"),
        ("CREDENTIALS", '{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE12\\n-----END-----"}', "MIIE12"),
        ("CDSAPI_KEY", "12345:7c9e6679-7425", "7c9e6679-7425"),
        ("PGPASSWORD", "pg-pass-1", "pg-pass-1"),
        ("LDAP_BINDPW", "ld4p-pw", "ld4p-pw"),
        ("REDIS_URL", "redis://:r3dis-pw@cache/0", "r3dis-pw"),
    ),
)
def test_a_variable_is_masked_by_its_parts(
    variable: str, value: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert scrub(f"refused: {secret}") == "refused: ***"


def test_short_words_and_files_are_masked_nowhere_else(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "data")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    remember_secret("abc")
    remember("a plain value")
    text = f"data in {tmp_path}, abc, a plain value"
    assert scrub(text) == text


def test_command_lines() -> None:
    argv = [
        "kit", "finetune", "--hub.token", "abc", "--api-key=def", "--train.steps", "20", "--track.uri=http://a:b c@h",
    ]  # fmt: skip
    assert scrub_argv(argv) == [
        "kit", "finetune", "--hub.token", "***", "--api-key=***", "--train.steps", "20", "--track.uri=http://***@h",
    ]  # fmt: skip


def test_flag_without_a_value_hides_no_other_flag() -> None:
    assert scrub_argv(["--hub.token", "--train.steps", "20"]) == ["--hub.token", "--train.steps", "20"]


def test_results_at_every_depth() -> None:
    result = {"a": [{"uri": "http://a:b@h", "n": 1}, ("x", None)], "sha": "ab", "ok": True, "nan": 0.5}
    assert scrub_all(result) == {
        "a": [{"uri": "http://***@h", "n": 1}, ["x", None]], "sha": "ab", "ok": True, "nan": 0.5,
    }  # fmt: skip


def test_log_records_and_their_tracebacks() -> None:
    try:
        msg = "http://ann:pa55@host is away"
        raise OSError(msg)
    except OSError:
        record = logging.LogRecord("kit", logging.ERROR, "", 0, "asked %s", ("http://ann:pa55@host",), sys.exc_info())
    text = MaskedFormatter("%(message)s").format(record)
    assert text.startswith("asked http://***@host")
    assert "pa55" not in text


def test_errors_and_what_caused_them() -> None:
    @masked
    def refuse(kind: type[Exception]) -> None:
        try:
            msg = "GET https://ann:pa55@host/x?sig=abc"
            raise OSError(msg)
        except OSError as error:
            try:
                msg = "harmless"
                raise LookupError(msg) from error
            except LookupError as second:
                msg = "https://ann:pa55@host does not answer"
                raise kind(msg) from second

    for kind in (KitError, RuntimeError):
        with pytest.raises(kind, match=r"^https://\*\*\*@host does not answer$") as raised:
            refuse(kind)
        shown = "".join(traceback.format_exception(raised.value))
        assert "harmless" in shown
        assert "OSError" not in shown
        # Apart from this test's own lines, which a traceback shows.
        assert "pa55" not in "".join(line for line in shown.splitlines(keepends=True) if "msg = " not in line)


LONG = (
    "a-" * 200_000, '"a":' * 100_000, "x" * 400_000, "http://" * 50_000, "password='" * 50_000, "?a=" * 100_000,
    "http://a:b@c/?sig=d " * 20_000, "'http://a:b" * 20_000, '"token":"' * 20_000, "Bearer " * 50_000,
    "\\" * 200_000, "eyJ" + "a" * 100_000 + ".",
)  # fmt: skip


@pytest.mark.parametrize("text", one_in(2, LONG, [text[:8] for text in LONG]))
def test_no_text_takes_long(text: str) -> None:
    began = time.monotonic()
    scrub(text)
    assert time.monotonic() - began < 10


def test_the_environment_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scrub("w1nd-and-rain") == "w1nd-and-rain"
    monkeypatch.setitem(os.environ, "SOME_SECRET", "w1nd-and-rain")
    assert scrub("w1nd-and-rain") == "***"

from __future__ import annotations

import pytest

from kit.io.secrets import is_secret_name, scrub, scrub_argv


@pytest.mark.parametrize("name", ("hub.token", "--api-key", "CDS_API_KEY", "cdsPassword", "store.secret", "apikey"))
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
        ("https://host/a?X-Amz-Signature=abc&part=2", "https://host/a?X-Amz-Signature=***&part=2"),
        ("see hf_abcdefghijklmnopqrstu there", "see hf_*** there"),
        ("sqlite:////data/runs/mlflow.db", "sqlite:////data/runs/mlflow.db"),
        ("2020-01-01T00/2020-02-01T00", "2020-01-01T00/2020-02-01T00"),
    ),
)
def test_texts(text: str, expected: str) -> None:
    assert scrub(text) == expected


def test_command_lines() -> None:
    argv = ["kit", "finetune", "--hub.token", "abc", "--api-key=def", "--train.steps", "20", "--track.uri=http://a:b@h"]
    assert scrub_argv(argv) == [
        "kit", "finetune", "--hub.token", "***", "--api-key=***", "--train.steps", "20", "--track.uri=http://***@h",
    ]  # fmt: skip


def test_flag_without_a_value_hides_no_other_flag() -> None:
    assert scrub_argv(["--hub.token", "--train.steps", "20"]) == ["--hub.token", "--train.steps", "20"]

from __future__ import annotations

import pytest

from kit.checks.results import Check, QualityReport, accept
from kit.io.errors import SettingsError

REPORT = QualityReport(
    "stores/mine",
    (
        Check("format", "passed", "error", None, "a store"),
        Check("nan", "failed", "error", "2t", "1 of 4 values NaN", "fill it"),
        Check("nan", "failed", "error", "u", "2 of 4 values NaN", "fill them"),
        Check("splits", "failed", "error", None, "train and valid overlap", "part them"),
        Check("outliers", "failed", "warning", "2t", "1 of 4 values", "look"),
    ),
)


def test_accepted_errors_no_longer_make_a_store_unfit() -> None:
    assert not REPORT.passed
    some = accept(REPORT, ("nan:2t", "splits"))
    assert [check.key for check in some.unresolved] == ["nan:u"]
    assert not some.passed
    every = accept(REPORT, ("nan:2t", "nan:u", "splits"))
    assert every.passed
    result = every.as_dict()
    assert result["accepted"] == ["nan:2t", "nan:u", "splits"]
    assert [check["accepted"] for check in result["checks"]] == [False, True, True, True, False]
    assert len(every.failed("error")) == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    (
        ("nan:v", r"data.accept: nan:v has no effect on stores/mine: nothing of that name .* found: nan:u, nan:2t"),
        ("nan", r"nothing of that name was found.*nan:"),
        ("format", r"format has no effect .* it passed"),
        ("outliers:2t", r"it is no error but warning"),
    ),
)
def test_a_name_without_effect_is_an_error(name: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        accept(REPORT, ("nan:2t", name))


def test_nothing_can_be_accepted_of_a_sound_store() -> None:
    with pytest.raises(SettingsError, match="Errors that were found: none"):
        accept(QualityReport("s", REPORT.checks[:1]), ("nan:2t",))

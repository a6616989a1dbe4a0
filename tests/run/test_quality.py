"""The kept report, and the page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import zarr

from kit.checks.check import Expected
from kit.checks.results import meaning_texts
from kit.checks.run import VERSION, examine
from kit.cli.main import main
from kit.data.store.format import REPORT_FILE
from kit.io.errors import SettingsError, StoreError
from kit.run import quality
from kit.run.quality import expected_of, fit_for_training, quality_of, write_page
from tests.factories import synthetic_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("quality") / "store", times=6).path


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stores that are read whole."""
    seen: list[Path] = []
    whole = examine

    def spy(path: Path, **options: object) -> object:
        seen.append(path)
        return whole(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(quality, "examine", spy)
    return seen


def _spoil(store: Path, value: float = np.nan) -> None:
    array = zarr.open_group(store, mode="r+")["2t"]
    array[3, 4, 5] = value  # type: ignore[index]


def test_a_store_is_read_once(store: Path, readings: list[Path]) -> None:
    first = quality_of(store)
    again = quality_of(store)
    assert again == first
    assert readings == [store]
    quality_of(store, fresh=True)
    assert readings == [store, store]


def test_a_store_that_changed_is_read_again(store: Path, readings: list[Path]) -> None:
    assert quality_of(store).report.passed
    _spoil(store)
    assert not quality_of(store).report.passed
    text = (store / "stats.json").read_text()
    (store / "stats.json").write_text(text.replace('"states"', '\n"states"'))
    quality_of(store)
    assert len(readings) == 3


@pytest.mark.parametrize("content", ("{", "[]", '{"key": "another"}'))
def test_a_spoilt_report_is_made_anew(store: Path, readings: list[Path], content: str) -> None:
    (store / REPORT_FILE).write_text(content)
    quality_of(store)
    assert readings == [store]
    assert json.loads((store / REPORT_FILE).read_text())["checks"]


def test_checks_of_another_version_are_run_again(
    store: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    quality_of(store)
    monkeypatch.setattr(quality, "VERSION", VERSION + 1)
    quality_of(store)
    assert len(readings) == 2


def test_where_the_store_cannot_be_written_the_cache_keeps_the_report(
    store: Path, readings: list[Path], tmp_path: Path
) -> None:
    (store / REPORT_FILE).mkdir()
    quality_of(store)
    quality_of(store)
    assert len(readings) == 1
    assert len(list((tmp_path / "cache" / "qa").iterdir())) == 1


def test_where_neither_can_be_written_a_warning_says_so(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (store / REPORT_FILE).mkdir()
    (tmp_path / "cache").write_text("a file")
    assert quality_of(store).report.passed
    assert "cannot be kept" in caplog.text


def test_a_variant_costs_no_reading(store: Path, readings: list[Path]) -> None:
    quality_of(store)
    report = quality_of(store, expected=Expected("wave", surface=("2t", "swh"))).report
    assert len(readings) == 1
    told = [check for check in report.checks if check.name == "missing-variables"]
    assert [(check.severity, check.evidence) for check in told] == [("warning", {"missing": ["swh"]})]
    names = [check.name for check in report.checks]
    assert names.index("missing-variables") < names.index("latitude")


def test_what_variants_read() -> None:
    assert expected_of("small").step_hours == 6
    assert expected_of("12h").step_hours == 12
    assert expected_of("v1p5").window_hours == 1
    assert {"wind", "dwi"} <= set(expected_of("wave").surface)
    with pytest.raises(SettingsError, match="expected one of"):
        expected_of("smal")


def test_training_is_told_how_to_accept(store: Path) -> None:
    _spoil(store)
    with pytest.raises(StoreError, match=r"not fit for training: nan \(2t\): .* --data.accept nan:2t$"):
        fit_for_training(store, ())
    (told,) = fit_for_training(store, ("nan:2t",)).accepted
    assert told.startswith("accepted: nan:2t: 1 of 3072 values NaN")
    with pytest.raises(SettingsError, match="data.accept: nan:u has no effect"):
        fit_for_training(store, ("nan:2t", "nan:u"))


class _Outside(HTMLParser):
    """What a page would fetch, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset", "action")]
        self.fetched += [value for value in values if not value.startswith(("data:", "#"))]


def test_the_page_needs_nothing_beside_it(store: Path, tmp_path: Path) -> None:
    _spoil(store)
    text = write_page(quality_of(store), tmp_path / "deep" / "qa.html").read_text()
    parser = _Outside()
    parser.feed(text)
    assert not parser.fetched
    assert not {"script", "link", "iframe"} & set(parser.tags)
    assert not re.search(r"url\(|@import", text)
    # A map and a bar of colours each.
    assert text.count('class="card"') == parser.tags.count("img") / 2 == 12
    assert "not fit for training" in text
    assert "1 points with findings" in text
    assert "What to do: fill them from their neighbours" in text
    assert "synthetic: not observed weather" in text
    assert len(text) < 500_000


def test_the_page_shows_what_was_accepted_and_escapes_what_it_is_given(store: Path) -> None:
    _spoil(store)
    found = quality_of(store, accepted=("nan:2t",))
    text = found.page()
    assert "<em>accepted</em>" in text
    assert ", 1 accepted by name" in text
    hostile = replace(found, facts={"source": "<script>alert(1)</script>"}).page()
    assert "<script" not in hostile


def test_the_command(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _spoil(store)
    page = tmp_path / "qa.html"
    assert main(["data", "qa", str(store), "--json", "--html", str(page)]) == 2
    result = json.loads(capsys.readouterr().out)
    assert (result["passed"], result["html"]) == (False, str(page))
    assert page.stat().st_size > 10_000
    assert main(["data", "qa", str(store), "--accept", "nan:2t", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == ["nan:2t"]
    assert main(["data", "qa", str(store), "--accept", "nan:v"]) == 2
    assert "--accept: nan:v has no effect" in capsys.readouterr().err


def test_the_table_folds_what_passed_and_names_what_does_not_apply(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["data", "qa", str(store)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().err.splitlines() if line.startswith("│")]
    results = {row[1].strip(): (row[2].strip(), row[-2].strip()) for row in rows}
    assert results["missing-levels"][0] == "note"
    assert results["dew-point"] == ("not applicable", "the store lacks 2d")
    assert "format" not in results
    report = quality_of(store).report
    assert not set(report.named("passed")) & set(report.named("not-applicable"))
    assert "level-profile" in report.named("failed")
    text = quality_of(store).page()
    assert f"{len(report.named('passed'))} checks passed, {len(report.named('not-applicable'))} not applicable" in text
    assert '<td class="not-applicable">not applicable</td>' in text
    assert '<span class="tag info">note</span>' in text


@pytest.mark.parametrize(
    ("stated", "expected"),
    (
        ({"lead_hours": 0, "cell_methods": "time: point"}, ("0 h", "none", "time: point")),
        ({"lead_hours": [6, 12], "accumulation_hours": 6}, ("6, 12 h", "sum of 6 h", "")),
        ({"averaging_hours": 24.0}, ("not stated", "mean of 24.0 h", "")),
    ),
)
def test_leads_and_windows_are_shown(stated: dict[str, object], expected: tuple[str, str, str]) -> None:
    unstated = dict.fromkeys(("lead_hours", "accumulation_hours", "averaging_hours", "cell_methods"))
    assert meaning_texts({**unstated, **stated}) == expected

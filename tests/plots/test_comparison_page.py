"""Pages of comparisons: whole, by themselves, and harmless whatever runs are called."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kit.io.secrets import remember_secret
from kit.plots.comparison_page import compare, overlaid_losses, page, score_tables
from kit.plots.pages import embedded
from kit.verification.comparison import Comparison
from kit.verification.comparison_settings import CompareSettings
from kit.verification.paired_scores import PairedScore
from tests.verification.compared import write_sums

MINUS = "\N{MINUS SIGN}"
HOSTILE = "<script>alert(1)</script>\"'&$x_1$"
FACTS: dict[str, Any] = dict.fromkeys(
    ("kind", "path", "mlflow_run_id", "status", "method", "trainable_parameters", "total_parameters", "device", "gpus",
     "steps", "epochs", "train_loss", "peak_memory_gib", "step_seconds", "train_seconds", "kit", "commit",
     "lock_sha256", "store", "store_sha256", "base", "base_sha256")
) | {"valid_loss": {"before": None, "best": None}}  # fmt: skip


class Outline(HTMLParser):
    """Tags, and addresses of all that a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(text: str) -> Outline:
    """Check that a page is whole and asks for nothing."""
    outline = Outline(text)
    assert outline.open == []
    assert "script" not in outline.tags
    assert all(address.startswith("data:image/png;base64,") for address in outline.addresses)
    assert not re.search(r"url\(|@import|https?://", text)
    return outline


def row(variable: str, lead: str, **changes: Any) -> PairedScore:
    facts: dict[str, Any] = {
        "variable": variable, "lead": lead, "region": "all", "score": "rmse", "run": "b", "values": (2.0, 1.5),
        "difference": -0.5, "low": -0.6, "high": -0.4, "p_value": 0.001, "significant": True, "dates": 60, **changes,
    }  # fmt: skip
    return PairedScore(**facts)


def comparison(**changes: Any) -> Comparison:
    facts: dict[str, Any] = {
        "runs": [FACTS | {"name": "a"}, FACTS | {"name": "b"}],
        "settings": {"optim.lr": ["0.1", "0.2"]},
        "provenance": {},
        "dates": {"count": 60, "first": "2020-01-01T00:00", "last": "2020-01-15T18:00"},
        "scores": [row("2t", "024h"), row("z_500", "024h")],
        "tests": {"count": 2, "significant": 2, "by_chance": 0.1},
        "units": {"2t": "K"},
        "notes": [],
        "losses": [[], []],
        "figures": [{}, {}],
        **changes,
    }
    return Comparison(**facts)


def test_the_page_says_what_differs_and_by_how_much() -> None:
    text = page(comparison())
    check(text)
    words = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "2 of 2 differences from a are significant." in words
    assert "about 0.1 of 2 comparisons would be called significant if nothing differed at all" in words
    # 0.5 less of 2.
    assert f"▲ {MINUS}25.0%" in words
    assert "optim.lr 0.1 0.2" in words
    assert f"{MINUS}0.6 to {MINUS}0.4" in words


def test_names_that_are_html_stay_names() -> None:
    found = comparison(
        runs=[FACTS | {"name": HOSTILE}, FACTS | {"name": "b", "store": HOSTILE}],
        settings={HOSTILE: [HOSTILE, None]},
        notes=[HOSTILE],
        scores=[row(HOSTILE, "024h", run=HOSTILE)],
        losses=[[{"step": 1, "kind": "train", "loss": 1.0}], []],
    )
    text = page(found)
    check(text)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_secrets_are_masked() -> None:
    remember_secret("swordfish-1234")
    text = page(comparison(settings={"track.uri": ["http://me:swordfish-1234@host", "none"]}))
    assert "swordfish" not in text


def test_what_saw_the_dates_in_training_is_marked() -> None:
    seen = {"stage": "stage 1 (full)", "split": "train", "period": "2020-01-01/2020-01-02"}
    leakage = [seen | {"start": 3, "inputs": 4, "targets": 5}]
    facts = {"name": "b", "leakage": leakage, "test_dates_seen": "yes"}
    text = page(comparison(runs=[FACTS | {"name": "a", "leakage": [], "test_dates_seen": "unknown"}, FACTS | facts]))
    check(text)
    words = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "b saw dates that are scored here , in training or validation: its scores flatter." in words
    assert "a saw dates" not in words
    assert "b stage 1 (full) train 2020-01-01/2020-01-02 3 4 5" in words
    assert "RMSE of b, everywhere saw dates that are scored" in words


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"significant": False, "low": -0.6, "high": 0.1}, "unsure"),
        ({"significant": True, "difference": 0.5, "values": (2.0, 2.5)}, "worse"),
        ({"significant": None, "low": None, "high": None, "p_value": None}, ""),
    ],
    ids=["unsure", "worse", "too few dates"],
)
def test_the_marks(changes: dict[str, Any], expected: str) -> None:
    text = page(comparison(scores=[row("2t", "024h", **changes)]))
    (cell,) = re.findall(rf'<td class="n (\w*)">\S* *[+{MINUS}][\d.]+%</td>', text)
    assert cell == expected


def test_many_leads_are_thinned_and_what_all_ask_for_stands_first() -> None:
    leads = [f"{hours:03d}h" for hours in range(6, 246, 6)]
    names = ["z_500", *(f"q_{level}" for level in range(50, 1050, 25))]
    found = comparison(scores=[row(name, lead) for name in names for lead in leads])
    (table,) = score_tables(found)
    assert len(table.leads) == 12
    assert (table.leads[0], table.leads[-1]) == ("006h", "240h")
    text = page(found)
    check(text)
    opened = text.partition("<details>")[0]
    assert "z_500" in opened
    assert "q_50<" not in opened


@pytest.mark.parametrize("count", [3, 300])
def test_a_long_list_is_left_out_on_paper(count: int) -> None:
    text = page(comparison(scores=[row(f"q_{number}", "024h") for number in range(count)]))
    check(text)
    assert (f"{count} comparisons are listed in the page itself" in text) == (count > 200)
    assert ('<details class="long">' in text) == (count > 200)
    # Everything else that is folded up is unfolded there.
    assert "details::details-content{content-visibility:visible" in text


def test_losses_are_overlaid_with_a_name_each() -> None:
    losses = [[{"step": step, "kind": kind, "loss": 1.0 / step} for step in (1, 2) for kind in ("train", "valid")]] * 2
    figure = overlaid_losses(["_a", "b$"], losses)
    assert figure is not None
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().strip() for text in legend.get_texts()] == ["_a", "b$"]
    assert len(figure.axes[0].lines) == 4
    assert overlaid_losses(["a"], [[]]) is None


def test_only_whole_png_files_are_embedded(tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    Image.new("RGB", (3, 2)).save(picture)
    assert (embedded(picture) or "").startswith("data:image/png;base64,iVBOR")
    (tmp_path / "no.png").write_text("<svg onload=alert(1)>")
    (tmp_path / "large.png").write_bytes(picture.read_bytes() + b"\0" * (5 << 20))
    for name in ("no.png", "large.png", "absent.png"):
        assert embedded(tmp_path / name) is None


def test_the_page_of_sums(tmp_path: Path) -> None:
    errors = np.linspace(1, 2, 24)
    paths = [write_sums(tmp_path / f"{name}.zarr", {"2t": errors + more}) for name, more in (("one", 0), ("other", 1))]
    out = tmp_path / "page.html"
    found = compare(CompareSettings.model_validate({"runs": tuple(map(str, paths)), "out": out}))
    assert found.to_dict()["html"] == str(out)
    check(out.read_text())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.zarr", "other.zarr", "page.html"]

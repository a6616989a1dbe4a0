"""Table of sources of members: shares of a single forecast's error, and significant gains counted."""

from __future__ import annotations

import ensembles


def test_a_table_states_shares_of_the_single_forecasts_error() -> None:
    names = ensembles.HEADLINES
    single = {name: {"mae": 4.0, "rmse": 5.0, "persistence_rmse": 10.0} for name in names}
    members = {name: {"crps": 3.0, "rmse": 4.5, "spread_error": 0.9, "persistence_crps": 8.0} for name in names}
    gains = [{"lead": "024h", "variable": name, "significant": name != "2t", "difference": -1.0} for name in names]
    gains += [{"lead": "024h", "variable": "t_50", "significant": True, "difference": -1.0}]
    of_source = {"seconds": 60.0, "ensemble": {"024h": members}, "differences": {"deterministic": gains}}
    plan = {"members": 10, "starts": 3, "steps": 4, "train_steps": 5}
    found = {"plan": plan, "deterministic": {"seconds": 6.0, "leads": {"024h": single}}}
    lines = ensembles.table(found | dict.fromkeys(ensembles.SOURCES, of_source)).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][1:5] == [
        "CRPS, 1 d",
        "better than one forecast",
        "better than gaussian",
        "better than DEF as published",
    ]
    assert rows[0][5:] == ["RMSE of the mean, 1 d", "spread / error, 1 d", "seconds a member"]
    # 8 / 4 of the absolute errors, 10 / 5 of the squared ones; no climatology was scored.
    assert rows[2] == ["persistence", "2.000", "", "", "", "2.000", "", "0"]
    assert rows[3] == ["one forecast", "1", "", "", "", "1", "", "2.0"]
    # 60 s for 3 starts of 10 members.
    assert rows[4] == ["gaussian perturbations", "0.750", "6 of 7", "", "", "0.900", "0.90", "2.0"]
    assert len(rows) == 4 + len(ensembles.SOURCES)


def test_scores_stand_with_their_intervals() -> None:
    row = {"mae": 2.0, "crps": 1.5, "crps_low": 1.25, "crps_high": 1.75}
    leads = {"leads": {"006h": dict.fromkeys(ensembles.HEADLINES, row)}}
    members = {"ensemble": {"006h": dict.fromkeys(ensembles.HEADLINES, row)}}
    lines = ensembles.table_of_variables({"deterministic": leads, **dict.fromkeys(ensembles.SOURCES, members)})
    assert lines.splitlines()[0].startswith("| CRPS, 6 h | one forecast | gaussian perturbations |")
    assert lines.splitlines()[2].startswith("| z_500 | 2 | 1.5 (1.25 to 1.75) |")


def test_the_page_has_the_tables() -> None:
    page = ensembles.PAGE.read_text()
    for source in ensembles.SOURCES.values():
        assert f"| {source.title} |" in page
    written = ensembles.with_tables(page, "| new |")
    assert "<!-- numbers: sources -->\n| new |\n<!-- end -->" in written
    assert ensembles.with_tables(written, "| newer |") == written.replace("| new |", "| newer |")

"""Periods that published weights were trained on, on which scores would flatter.

Sources, by what the periods below name:

- the paper: Bodnar et al. 2025, "A Foundation Model for the Earth System", supplement C, its tables of data;
- upstream's issues 54 and 197: the released 0.25 degree weights were fine-tuned on HRES of 2016 to 2021, with 2022
  held out; those of 0.1 degrees on HRES up to and including 2022;
- upstream's ``docs/models.md``: the small and the 12-hour weights are pretrained as the large ones are;
- upstream's ``docs/foundry/notes.md``: Aurora 1.5 was trained on ERA5 of 1981 to 2023, and on ECMWF's operational
  analysis of 2018 to 2023.

None stands for periods that nobody has published. The kit's own tiny weights and whatever it fine-tunes carry their
past with them.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

from kit.data.settings import Period
from kit.models.weights.load import Weights

_PRETRAINED = ("ERA5 and others of the pretraining", "1979-01-01/2020-12-31T23:59")
_V1P5 = (("ERA5", "1981-01-01/2023-12-31T23:59"), ("ECMWF's operational analysis", "2018-01-01/2023-12-31T23:59"))

PRETRAINING_PERIODS: Mapping[str, tuple[tuple[str, str], ...] | None] = {
    "hres-finetuned": (_PRETRAINED, ("HRES", "2016-01-01/2021-12-31T23:59")),
    "pretrained": (_PRETRAINED,),
    "small": (_PRETRAINED,),
    "12h": (_PRETRAINED,),
    "highres": (_PRETRAINED, ("HRES", "2016-01-01/2022-12-31T23:59")),
    "air-pollution": (
        _PRETRAINED,
        ("CAMS reanalysis", "2003-01-01/2021-12-31T23:59"),
        ("CAMS analysis", "2017-10-01/2022-05-31T23:59"),
    ),
    "wave": (_PRETRAINED, ("HRES-WAM", "2016-01-01/2021-12-31T23:59")),
    "v1p5": _V1P5,
    "v1p5-ensemble": _V1P5,
    "tiny": None,
}
"""What upstream's own weights of each variant were trained on, and when."""


def leaks(
    variant: str, weights: Weights | None, periods: Mapping[str, Period], store: str | None, *, synthetic: bool
) -> list[str]:
    """Find states of validation and test that the weights saw before this run.

    Args:
        variant: the kit's name of it.
        weights: what training starts from; None for random ones.
        periods: ``valid`` and ``test`` among them.
        store: hash of the store of these states.
        synthetic: the states are made up: nobody but the kit has seen them, and their dates mean nothing elsewhere.

    Returns:
        A sentence for each overlap.
    """
    if weights is None:
        return []
    stages: list[dict[str, Any]] = (weights.description or {}).get("lineage", [])
    own = [stage for stage in stages if bool(stage.get("synthetic")) == synthetic]
    if synthetic:
        own = [stage for stage in own if stage.get("store_sha256") in (None, store)]
    trained_on = [(f"an earlier stage ({stage['method']})", Period.parse(stage["train"])) for stage in own]
    from_scratch = bool(stages) and stages[0]["base"] is None
    # What upstream trained on is real data, and no part of weights whose first stage began from random ones.
    if not (synthetic or from_scratch):
        trained_on += [(what, Period.parse(when)) for what, when in PRETRAINING_PERIODS[variant] or ()]
    found: list[str] = []
    for (what, when), name in product(trained_on, ("valid", "test")):
        period = periods[name]
        if when.start <= period.end and period.start <= when.end:
            found.append(
                f"data.{name} ({period}) overlaps what the base weights saw in training: {what}, {when}. Scores on it "
                "are of states that were trained on; choose a later period"
            )
    return found

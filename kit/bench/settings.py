"""Settings of the benchmarks."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from kit.checkpoint.settings import RunSettings
from kit.config.suggestions import near_names
from kit.planning.settings import Size
from kit.tracking.settings import TrackSettings

SUITES = ("step", "plan", "scale", "fit", "methods", "data", "card")
"""What can be measured, in the order of the page."""
LIBRARIES = "libraries"
"""Suite of rows beside other libraries, which tests marked ``benchmark`` measure; last on the page."""
_VARIANTS = Literal["tiny", "small", "pretrained", "hres-finetuned", "12h"]
_PAGE, _RESULTS = ".md", ".json"


class BenchSettings(BaseModel):
    """Settings of the benchmarks: what is measured, how often, and where the numbers go."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    suites: CliPositionalArg[tuple[str, ...]] = ()
    """Suites, one after the other: step (time, memory and exactness of one step, measured beside upstream's loop),
    plan (memory of the settings that the kit is judged by), scale (growth with grid and roll-out), fit (what
    memory.fit chooses), methods (every way of fine-tuning, on the embedded sample), data (building stores and reading
    them), card (the planner's memory and time beside those of this machine's GPU). Without any: step."""
    repeats: PositiveInt = 2
    """Times that each way of taking a step is measured, in turns with all others; the best counts."""
    steps: PositiveInt = 200
    """Optimiser steps of each run in suite methods."""
    threads: PositiveInt | None = None
    """Threads of the CPU; by default as many as PyTorch takes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where steps are measured; ``auto`` takes a GPU where there is one. Plans need none."""
    variant: _VARIANTS = "small"
    """Model whose steps are measured."""
    grid: Size | None = None
    """Grid instead of a suite's own: 96x192 where steps are measured, 721x1440 where they are planned. Targets are
    set for those."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward pass in suite step."""
    card: Annotated[str, BeforeValidator(str, json_schema_input_type=str)] = "A100 80GB"
    """GPU for which the planner estimates times."""
    out: Path = Path("docs/benchmarks.md")
    """The page; results go beside it, as JSON. Suites that are not run keep what is there of them."""
    source: Path | None = Field(default=None, alias="from")
    """Measure nothing: make the page from this file of results."""
    run: RunSettings = RunSettings()
    track: TrackSettings = TrackSettings()

    @field_validator("suites")
    @classmethod
    def _known(cls, suites: tuple[str, ...]) -> tuple[str, ...]:
        for name in suites:
            if name not in SUITES:
                hint = f"there are {', '.join(SUITES)}"
                if near := near_names(name, SUITES, count=2):
                    hint = f"did you mean {' or '.join(near)}?"
                msg = f"there is no suite {name!r}; {hint}"
                raise ValueError(msg)
        # Each once, in the order given.
        return tuple(dict.fromkeys(suites))

    @field_validator("out")
    @classmethod
    def _is_page(cls, out: Path) -> Path:
        if out.suffix != _PAGE:
            msg = f"expected a file that ends in {_PAGE}, beside which the results go as {_RESULTS}, got {str(out)!r}"
            raise ValueError(msg)
        return out

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        # A setting without effect is refused, not ignored.
        if self.source is not None and self.suites:
            msg = (
                f"from and suites exclude each other: a page from results measures nothing; leave out {self.suites[0]}"
            )
            raise ValueError(msg)
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """The suites that are run."""
        if self.source is not None:
            return ()
        return self.suites or SUITES[:1]

    @property
    def results(self) -> Path:
        """File of results beside the page."""
        return self.out.with_suffix(_RESULTS)

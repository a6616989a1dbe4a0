"""Settings of reports: on which run, and where they go."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_settings import CliPositionalArg


class ReportSettings(BaseModel):
    """Which run is reported on."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: CliPositionalArg[Path]
    """The run's folder."""
    out: Path | None = None
    """Page to be written, one HTML file that needs nothing beside it; must not exist. By default ``report.html`` in the
    run folder, where an earlier one is replaced."""
    ensembles: tuple[Path, ...] = ()
    """Scores of ensembles to be shown, each a folder that ``kit evaluate --forecast_file FILE --out FOLDER`` wrote."""
    plan: bool = True
    """Trace a step to put planned memory beside what was measured; ``--no-plan`` saves that time."""

    @field_validator("out")
    @classmethod
    def _is_page(cls, out: Path | None) -> Path | None:
        if out is not None and out.suffix != ".html":
            msg = f"expected a name that ends in .html, got {str(out)!r}"
            raise ValueError(msg)
        return out

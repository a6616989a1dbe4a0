"""Settings of exports: what is given away, and as what."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from kit.checkpoint.settings import Checkpoints
from kit.registry.settings import RegistrySettings


class ExportSettings(BaseModel):
    """What is exported."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: Checkpoints
    """Checkpoint folder, such as ``runs/NAME/checkpoints/best``; several, given one by one or separated by commas, to
    be averaged."""
    out: Path
    """Folder to be made, or an archive: a name that ends in ``.tar``; must not exist."""
    average: bool = False
    """Average the merged weights of several checkpoints into one model."""
    registry: RegistrySettings = RegistrySettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.checkpoint) > 1 and not self.average:
            msg = "checkpoint: several were given; average them with --average, or export one at a time"
            raise ValueError(msg)
        if len(self.checkpoint) == 1 and self.average:
            msg = "average has no effect with one checkpoint; leave it out, or give several"
            raise ValueError(msg)
        if self.out.suffix in {".gz", ".zip", ".tgz", ".xz", ".zst"}:
            msg = f"out: expected a folder or a name that ends in .tar, got {str(self.out)!r}; weights do not compress"
            raise ValueError(msg)
        return self

    @property
    def is_archive(self) -> bool:
        """Whether one file is written."""
        return self.out.suffix == ".tar"

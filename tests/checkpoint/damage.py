"""Damage to files that the kit has written, which can be undone."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_PAGE = 4096


def flip(content: bytes, rng: random.Random) -> bytes:
    """Turn one bit."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def zero_page(content: bytes, rng: random.Random) -> bytes:
    """Fill a page with zeros, as a disk does that lost it."""
    start = rng.randrange(0, len(content), _PAGE)
    return content[:start] + bytes(len(content[start : start + _PAGE])) + content[start + _PAGE :]


def truncate(content: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return content[: rng.randrange(1, len(content))]


def empty(_content: bytes, _rng: random.Random) -> bytes:
    """Leave the name alone."""
    return b""


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, zero_page, truncate, empty)
KINDS = (*(change.__name__ for change in CHANGES), "remove", "swap", "add")


@dataclass
class Damage:
    """What was done to a file, until it is undone."""

    kind: str
    file: Path
    kept: dict[Path, bytes | None] = field(default_factory=dict)

    def undo(self) -> None:
        for file, content in self.kept.items():
            if content is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)


def damaged(root: Path, others: list[Path], rng: random.Random) -> Damage | None:
    """Damage a file below a folder; None where the bytes came out as they were.

    Args:
        root: a checkpoint, an export or a run.
        others: folders like it, whose files of the same name may take a file's place.
        rng: that chooses.
    """
    file = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    content, kind = file.read_bytes(), rng.choice(KINDS)
    done = Damage(kind, file, {file: content})
    if kind == "remove":
        file.unlink()
        return done
    if kind == "add":
        done.file = file.with_name("adapter_model.safetensors.bak")
        done.kept = {done.file: None}
        shutil.copy(file, done.file)
        return done
    if kind == "swap":
        places = [other / file.relative_to(root) for other in others]
        places = [place for place in places if place.is_file() and place.read_bytes() != content]
        if not places:
            return None
        changed = rng.choice(places).read_bytes()
    else:
        change = next(change for change in CHANGES if change.__name__ == kind)
        if not content:
            return None
        changed = change(content, rng)
    if changed == content:
        return None
    file.write_bytes(changed)
    return done

"""Places of weights: what ``model.weights`` names, and those that a checkpoint belongs to.

A delta names its base by SHA-256. The name and the path that were recorded with it say where to look first; on
another machine, or under another user, folders are searched for a file of that hash, and the registry for an entry
of it. What would have to be downloaded comes last.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, filterfalse
from pathlib import Path
from typing import Any

from kit import registry
from kit.io import hashes
from kit.io.errors import CheckpointError, RegistryError
from kit.models.variants import VARIANTS, Variant
from kit.registry import Entry
from kit.registry.entry import HUB, HubFile, place

OFFICIAL = "hub"
"""What ``model.weights`` calls upstream's published weights of a variant."""
RANDOM = "random"

WEIGHTS_VARIABLE = "KIT_WEIGHTS"
"""Environment variable with folders of weights, separated as in ``PATH``."""
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
# Between the names of files that are weights together.
_TOGETHER = "+"


def locate(reference: str | None, variant: Variant) -> tuple[str, Path]:
    """Find what ``model.weights`` names.

    Args:
        reference: a checkpoint folder, a file, a registry name, or ``hub``; None for the variant's own.
        variant: whose weights they are.

    Returns:
        The name that they are recorded under, a registry name or the path as it was given; and the path.

    Raises:
        CheckpointError: there are none of that name, or they are another variant's.
        RegistryError: the registry's are not pinned, cannot be had, or are not those that it describes.
    """
    name = _registered(reference, variant)
    if name is not None:
        return name, _find_registered(name, variant)
    path = Path(str(reference))
    if path.exists():
        return str(reference), path
    nearby = sorted(str(p) for p in path.parent.glob("*") if p.is_dir() or p.suffix in _SUFFIXES)
    known, official = "", ""
    if nearby:
        known = f"; beside it are {', '.join(nearby[:8])}"
    if variant.is_official:
        official = f"{OFFICIAL!r}, "
    msg = (
        f"model.weights: expected a checkpoint folder, a .ckpt or .safetensors file, a registry name, {official}or "
        f"{RANDOM!r}; nothing is at {str(path)!r}{known}"
    )
    raise CheckpointError(msg)


def is_official(reference: str | None, variant: Variant) -> bool:
    """Tell whether upstream's published weights of the variant are meant."""
    return variant.is_official and _registered(reference, variant) == variant.weights


def _registered(reference: str | None, variant: Variant) -> str | None:
    """The registry's name of what is meant; None for a path."""
    if reference == OFFICIAL and not variant.is_official:
        official = [row.name for row in VARIANTS.values() if row.is_official]
        msg = (
            f"model.weights {OFFICIAL}: there are no official weights of variant {variant.name!r}, whose settings are "
            f"the kit's; its own are {variant.weights!r}, which are taken when model.weights is left out. Official "
            f"are those of {', '.join(official)}"
        )
        raise CheckpointError(msg)
    if reference in (None, OFFICIAL):
        return variant.weights
    # A path that is there comes before an entry of the same name.
    if Path(str(reference)).exists() or reference not in registry.entries():
        return None
    return reference


def _find_registered(name: str, variant: Variant) -> Path:
    entry = registry.entries().get(name)
    if entry is None:
        return registry.fetch(name)
    if entry.kind != "weights":
        msg = f"model.weights: the registry's {name} are {entry.kind}, not weights; see kit data list"
        raise CheckpointError(msg)
    # Before anything is fetched: weights of another variant may have the same layers and would load, and their step,
    # their LoRA and the years that they have seen would be taken for this one's.
    owner = next((row.name for row in VARIANTS.values() if row.weights == name), variant.name)
    if owner != variant.name:
        msg = (
            f"model.weights: {name} are the weights of variant {owner!r}, but model.variant is {variant.name!r}; set "
            f"--model.variant {owner}"
        )
        raise CheckpointError(msg)
    try:
        return _in_weights_folders(entry) or registry.fetch(name)
    except RegistryError as error:
        msg = str(error)
        # Point to a file of the entry's name that nothing vouches for.
        for folder in _weights_folders():
            named = [file for file in _files(folder) if file.name == entry.file]
            if named:
                msg += f". {named[0]} has its name; if you trust it, pass --model.weights {named[0]}"
                break
        raise RegistryError(msg) from error


def _in_weights_folders(entry: Entry) -> Path | None:
    """Find a file of the entry's hash in a folder of weights, which saves a download; None if there is none.

    Raises:
        RegistryError: the entry has no hash and gets none.
    """
    if _at_hand(entry):
        return None
    described = entry if entry.hash is not None else registry.identify(entry)
    if described.sha256 is None:
        return None
    recorded = {"file": described.file, "size": described.size, "sha256": described.sha256}
    path = next(_of_hash(recorded, ()), None)
    if path is not None and entry.hash is None:
        registry.accept(described)
    return path


def _at_hand(entry: Entry) -> bool:
    """Whether an entry's file is on this machine where the registry keeps it."""
    path = place(entry)
    return path is not None and path.is_file()


def search_places(
    recorded: Mapping[str, Any], folder: Path, problems: list[str], *, fixed: Collection[str] = ()
) -> Iterator[Path]:
    """Search every place where recorded weights may be, the likeliest first and downloads last.

    The caller compares hashes.

    Args:
        recorded: ``name``, ``file``, ``sha256`` and perhaps ``relative``, ``size``, ``repository`` and ``revision``, as
            ``kit.json`` has them.
        folder: of the checkpoint that recorded them.
        problems: gets what kept a registry entry from being fetched.
        fixed: names of files that mean something only under their names, beside others.

    Yields:
        Paths that exist: what the registry keeps; of the name, where that is one; of the same place beside the
        checkpoint; files of that hash in the folders of ``KIT_WEIGHTS`` and in the cache, or their folder where the
        weights are several files; what the registry can download.
    """
    origin = {key: recorded[key] for key in ("repository", "revision") if key in recorded}
    entries: list[Entry] = []
    for entry in registry.entries().values():
        same_hash = entry.sha256 is not None and entry.sha256 == recorded["sha256"]
        same_file = bool(origin) and origin == _origin(entry) and entry.file == recorded["file"]
        if entry.name == recorded["name"] or same_hash or same_file:
            entries.append(entry)
    yield from _fetched(filter(_at_hand, entries), recorded, problems)
    named: list[Path] = []
    # A registry entry is fetched by its name, and is not looked for on the disk.
    if recorded["name"] not in registry.entries():
        named.append(Path(str(recorded["name"])))
    if "relative" in recorded:
        named.append(folder / str(recorded["relative"]))
    yielded: set[Path] = set()
    for path in chain(filter(Path.exists, named), _of_hash(recorded, fixed)):
        if path.resolve() not in yielded:
            yielded.add(path.resolve())
            yield path
    yield from _fetched(filterfalse(_at_hand, entries), recorded, problems)


def _fetched(entries: Iterable[Entry], recorded: Mapping[str, Any], problems: list[str]) -> Iterator[Path]:
    # A list first: what is fetched comes to be at hand.
    for entry in list(entries):
        try:
            # What a hub states without a download may save one of gigabytes that are not the recorded ones.
            stated = registry.identify(entry).sha256 if entry.hash is None else None
            if stated not in (None, recorded["sha256"]):
                problems.append(f"{entry.name} has SHA-256 {stated} at the hub")
                continue
            yield registry.fetch(entry.name)
        except RegistryError as error:
            problems.append(str(error))


def _origin(entry: Entry) -> dict[str, str]:
    """Repository and revision of a hub's file; nothing for others."""
    if entry.scheme != HUB:
        return {}
    hub = HubFile.of(entry.urls[0])
    return {"repository": hub.repo, "revision": hub.revision}


def with_relative(base: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Add the path of weights relative to a checkpoint's folder, if they are files.

    Args:
        base: ``name``, ``file`` and ``sha256`` of weights.
        folder: of the checkpoint that names them.
    """
    path = Path(str(base["name"]))
    if not path.exists():
        return dict(base)
    # From the folder's place, so that both may be moved together.
    return {**base, "relative": os.path.relpath(path.absolute(), folder.absolute())}


def _of_hash(recorded: Mapping[str, Any], fixed: Collection[str]) -> Iterator[Path]:
    """Files of the recorded hash; only those of the recorded size, or else the recorded name, are hashed."""
    names = str(recorded["file"]).split(_TOGETHER)
    # Weights of several files, and files that mean something only under their names, are looked for by name; any other
    # may have been renamed, and is known by its size.
    renamed = len(names) == 1 and names[0] not in fixed and "size" in recorded
    for searched in (*_weights_folders(), registry.cache_dir() / "files"):
        for file in _files(searched):
            if not renamed and file.name != names[0]:
                continue
            group = [file] if renamed else [file.with_name(name) for name in names]
            try:
                size = sum(part.stat().st_size for part in group)
            except OSError:
                continue
            if size == recorded.get("size", size) and _digest(group) == recorded["sha256"]:
                yield file.parent if len(group) > 1 else file


def _files(place: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(place):
        # In order of their names, so that a search finds the same file on every machine.
        folders.sort()
        yield from (Path(root) / name for name in sorted(names) if name.endswith(_SUFFIXES))


def _weights_folders() -> list[Path]:
    """List the folders of ``KIT_WEIGHTS``."""
    parts = os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep)
    return [Path(part).expanduser() for part in parts if part]


def describe_search() -> str:
    """Describe where files were searched by their hash, and which of these folders are missing."""
    shown = [str(folder) if folder.is_dir() else f"{folder} (no such folder)" for folder in _weights_folders()]
    listed = ", ".join(shown) or "not set"
    return f"{WEIGHTS_VARIABLE} ({listed}) and the cache {registry.cache_dir() / 'files'}"


def identify_weights(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """Collect what identifies weights: their name, and the files' own names, size and SHA-256.

    Of several files it is the SHA-256 of their digests one after the other. Official weights are known by their name
    or their hash, wherever they lie, and have the ``repository`` and ``revision`` that they are published in.
    """
    size, digest = sum(file.stat().st_size for file in files), _digest(files)
    facts = {"name": name, "file": _TOGETHER.join(file.name for file in files), "size": size, "sha256": digest}
    # Official weights may have no hash in the registry: the hub's revision says which they are.
    for entry in registry.entries().values():
        if entry.scheme == HUB and (entry.name == name or entry.sha256 == digest):
            return {**facts, "file": entry.file, **_origin(entry)}
    return facts


def _digest(files: Sequence[Path]) -> str:
    digests = list(map(hashes.sha256_of_file, files))
    return digests[0] if len(digests) == 1 else hashes.sha256_of_text("".join(digests))

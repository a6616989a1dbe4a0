"""Checks of what a store is made of: format, arrays, variables, statistics."""

import os

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, check, few
from kit.checks.store_reader import chunk_files
from kit.data.store.format import STORE_FORMAT
from kit.data.variables import Kind


@check("format", "error", f"a store of format {STORE_FORMAT}")
def _format(store: Examined) -> Findings:
    version = store.reader.attributes.get("kit_store")
    if version != STORE_FORMAT:
        yield Finding(None, f"attribute kit_store is {version!r}, {STORE_FORMAT} expected", REBUILD)


@check("layout", "error", "every array has the dimensions, shape and type of a store's")
def _layout(store: Examined) -> Findings:
    for name in ("time", "latitude", "longitude"):
        if name not in store.reader.coordinates and name not in store.reader.misfits:
            yield Finding(name, "the store has no such coordinate", REBUILD)
    for name, (reason, severity) in store.reader.misfits.items():
        yield Finding(name, f"cannot be used: {reason}", f"put it into the store's form: {REBUILD}", severity)


@check("readable", "error", "every chunk could be read")
def _readable(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        # Zarr by itself takes a lost chunk for missing values, so that files are looked for before they are read.
        if found.damage:
            yield Finding(name, found.damage, f"the store is damaged: {REBUILD}")


@check("self-contained", "warning", "all of the store lies in its folder")
def _self_contained(store: Examined) -> Findings:
    """Links are followed, but a copy of the store lacks what they point to, and its hashes cover another disk."""
    for channel in store.reader.channels:
        folder = channel.folder
        # ``c`` holds all chunks; where it is a link itself, those in it are not looked at one by one.
        linked = [file for file in (folder, folder / "c") if file.is_symlink()]
        if not linked:
            linked = [file for file in chunk_files(folder, channel.array) if file.is_symlink()]
        if linked:
            target = os.path.realpath(linked[0])
            detail = f"{len(linked)} of its files or folders are links, first {linked[0].name} to {target}"
            yield Finding(channel.name, detail, "put the files in the place of the links before you move the store")


@check("variables", "error", "there are surface, atmospheric and static variables")
def _variables(store: Examined) -> Findings:
    remedies: dict[Kind, str] = {
        "surface": "Aurora needs at least one surface variable: add it to the data and build the store again",
        "atmospheric": "Aurora needs at least one variable on pressure levels: add it and build the store again",
        "static": "Aurora needs at least one static variable: add one to the data, or build the store again with "
        "derived ones, such as `--statics coslat,sinlat`",
    }
    kinds = {channel.kind for channel in store.reader.channels}
    for kind, remedy in remedies.items():
        if kind not in kinds:
            yield Finding(None, f"no {kind} variable", remedy)


@check("known-variables", "info", "every variable is in the table of variables")
def _known_variables(store: Examined) -> Findings:
    for channel in store.reader.channels:
        if channel.known is None:
            yield Finding(channel.name, "not in the table of variables: its range is not checked", "check its unit")


@check("statistics", "error", "every variable has finite statistics with a scale above zero")
def _statistics(store: Examined) -> Findings:
    if store.reader.statistics is None:
        yield Finding(None, store.reader.statistics_error, REBUILD)
        return
    known = store.reader.statistics.variables
    for channel in store.reader.channels:
        keys = store.reader.keys(channel)
        missing = [key for key in keys if key not in known]
        if missing:
            yield Finding(channel.name, f"stats.json lacks {few(missing)}", REBUILD)
        there = [key for key in keys if key in known]
        unfit = [key for key in there if not (np.isfinite(known[key].mean) and 0 < known[key].std < np.inf)]
        if unfit:
            first = known[unfit[0]]
            detail = f"unfit for normalisation: {few(unfit)}; {unfit[0]} has mean {first.mean:g}, scale {first.std:g}"
            remedy = f"leave the variable or level out, or correct its data over the training period, then {REBUILD}"
            # A static field may be constant over a box: upstream's statistics, or the model's own, then serve.
            yield Finding(channel.name, detail, remedy, "warning" if channel.kind == "static" else None)


@check("duplicate-variables", "warning", "no two variables are the same")
def _duplicate_variables(store: Examined) -> Findings:
    names: dict[bytes, str] = {}
    for name, found in store.all_of("variable with times", lambda one: one.channel.kind != "static").items():
        if found.low == found.high:
            continue
        # The mean of every state and the extremes stand for the values, which are read once and not kept.
        key = np.asarray(found.mean_TC).tobytes() + np.array([found.low, found.high]).tobytes()
        twin = names.setdefault(key, name)
        if twin != name:
            detail = f"has the mean of {twin} in every state, and its extremes: one of them is a copy"
            yield Finding(name, detail, f"look up which one it is, leave the other out, then {REBUILD}")


CHECKS = (_format, _layout, _readable, _self_contained, _variables, _known_variables, _duplicate_variables, _statistics)
"""In the order in which they are reported."""

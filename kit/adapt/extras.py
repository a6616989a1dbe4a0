"""The optional packages that adapters need, imported when a method asks for them."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch._subclasses.fake_tensor import unset_fake_temporarily

from kit.errors import SettingsError

__all__ = ["load"]

_NEEDED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("lora", "dora", "adalora"), ("peft",)),
    "qlora": ("bitsandbytes", "peft"),
}
# What they and their dependencies say while they load is about kernels and formats that the kit does not use.
_CHATTY = ("bitsandbytes", "torch.utils._pytree", "torchao")


def load(method: str) -> None:
    """Import the packages of the ``peft`` extra that a method needs; takes seconds the first time.

    Raises:
        SettingsError: one of them cannot be imported.
    """
    for package in _NEEDED.get(method, ()):
        try:
            # What a module makes as it loads has to be real, even if it is first asked for while a step is planned.
            with _quiet(), unset_fake_temporarily():
                importlib.import_module(package)
        except ImportError as error:
            msg = (
                f"adapt.method {method} needs the package {package}, which cannot be imported ({error}); install it "
                'with: pip install "aurora-finetune-kit[peft]"'
            )
            raise SettingsError(msg) from error


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # Bytecode is compiled at the first import, which is when Python warns of other people's escapes.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""The optional packages."""

from __future__ import annotations

import sys

import pytest

from kit.adapt.lora import import_packages
from kit.io.errors import SettingsError


@pytest.mark.parametrize(("method", "package"), (("lora", "peft"), ("qlora", "bitsandbytes")))
def test_a_missing_package_says_what_to_install(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"adapt.method {method} needs .* {package}, .*aurora-finetune-kit\[peft\]"
    with pytest.raises(SettingsError, match=message):
        import_packages(method)


def test_full_fine_tuning_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    import_packages("full")

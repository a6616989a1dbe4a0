"""The package diffusers, which is an extra, and says much that nobody asked for when it is imported."""

import logging
from typing import Any

from kit.io.errors import SettingsError


def diffusers_class(name: str, needed_by: str) -> Any:
    """Import a class of ``diffusers``.

    Args:
        name: Name of the class.
        needed_by: What needs it, for the message.

    Raises:
        SettingsError: the package is missing.
    """
    disabled = logging.root.manager.disable
    # Of packages that it looks for, and of those that these look for.
    logging.disable(logging.WARNING)
    try:
        import diffusers

        return getattr(diffusers, name)
    except ImportError as error:
        msg = (
            f"{needed_by} needs the package diffusers, which cannot be imported ({error}); install it with: "
            'pip install "aurora-finetune-kit[diffusion]"'
        )
        raise SettingsError(msg) from error
    finally:
        logging.disable(disabled)

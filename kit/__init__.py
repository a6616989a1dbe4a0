"""The kit: fine-tune Microsoft's Aurora weather foundation model, reproducibly."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("aurora-finetune-kit")

"""``python -m kit`` and ``torchrun -m kit``: the command line."""

import sys

from kit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

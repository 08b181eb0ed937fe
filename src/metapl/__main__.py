"""``python -m metapl``."""

from __future__ import annotations

import sys

from metapl.cli import main

if __name__ == "__main__":
    sys.exit(main())

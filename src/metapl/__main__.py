"""``metapl`` and ``python -m metapl``: a signal ends the command with a word from here on, during its imports too."""

from __future__ import annotations

import sys

from metapl.utils.signals import end_by_sigterm, stopped


def main() -> int:
    """Run the command line, as ``metapl.cli.main`` does."""
    try:
        end_by_sigterm()
        from metapl.cli import main as run

        return run()
    except KeyboardInterrupt as stop:
        return stopped(stop)


if __name__ == "__main__":
    sys.exit(main())

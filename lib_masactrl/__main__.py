"""``python -m lib_masactrl``: the standalone host."""

from __future__ import annotations

import sys

from lib_masactrl.host.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m moeplan``: the same as the command ``moeplan``."""

from __future__ import annotations

from moeplan.cli.app import main

if __name__ == "__main__":
    main()

"""``python -m modelserve``."""

from modelserve.cli import entry

entry()

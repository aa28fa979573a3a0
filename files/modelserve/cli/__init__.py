"""The command line: one module per audience, and one for output."""

from modelserve.cli.main import entry as entry

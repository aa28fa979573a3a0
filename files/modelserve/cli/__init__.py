"""The command line: one module per audience, and the parts that they share."""

from modelserve.cli.main import entry as entry

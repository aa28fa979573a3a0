"""The ``modelserve`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from modelserve import __version__
from modelserve.cli import access, author, internal, operate
from modelserve.cli.options import Run
from modelserve.cli.output import DONE, FAILED, emit_problems
from modelserve.errors import UserError
from modelserve.util import disk

# As a shell reports a program that a signal ended: 128 and the number of SIGINT, of SIGPIPE.
INTERRUPTED, OUTPUT_CLOSED = 130, 141


def entry(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    code = main(arguments)
    if "rattler" in sys.modules:
        # py-rattler 0.28's threads outlive the interpreter: an ordinary exit crashes once in forty times.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or DONE
    except UserError as error:
        emit_problems(options.json, error.problems)
        return FAILED
    except BrokenPipeError:  # the reader of the output ended, as `head` does; Python would report it at its own end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OUTPUT_CLOSED
    except OSError as error:
        if not disk.is_full(error):
            raise
        emit_problems(options.json, _full(error).problems)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _full(error: OSError) -> UserError:
    """Return what a full disk means to the user: the file that could not be written, where the error names it."""
    file = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if file is None:
        return disk.no_space("this command", Path(os.environ.get("MODELSERVE_HOME") or "/opt/modelserve"))
    return disk.no_space(file.name, file.parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("modelserve", description="Serve the algorithms of conf.ini on a Ray cluster.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        return _configured(commands.add_parser(name, help=summary, description=summary), run)

    def hidden(name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        return _configured(commands.add_parser(name, description=summary), run)  # without help: not in the list

    operate.register(command)
    author.register(command)
    access.register(command)
    internal.register(hidden)
    return parser


def _configured(parser: argparse.ArgumentParser, run: Run) -> argparse.ArgumentParser:
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return parser


if __name__ == "__main__":
    entry()

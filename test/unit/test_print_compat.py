"""Print: what a replica prints to a file, and so each logged traceback, is what Python writes."""

from __future__ import annotations

import io
import traceback
from types import ModuleType

import pytest
from modelserve.replica.print_compat import fix_print

# ``print`` is replaced under this name, as in ray/serve/_private/logging_utils.py of Ray 2.60.
WRONG = "def redirected_print(*objects, sep=' ', end='\\n', file=None, flush=False):\n"
WRONG += "    return buildin_print(objects, sep=sep, end=end, file=file, flush=flush)\n"
RIGHT = WRONG.replace("(objects,", "(*objects,")


@pytest.mark.parametrize("source", [WRONG, RIGHT], ids=["Ray 2.60", "a Ray that is right"])
def test_what_is_printed_to_a_file_is_what_python_writes(source: str) -> None:
    module = ModuleType("logging_utils")
    module.__dict__["buildin_print"] = print
    exec(source, module.__dict__)
    fix_print(module)
    fix_print(module)  # a second time changes nothing
    file = io.StringIO()
    module.redirected_print("a", 1, (2,), sep="-", file=file)
    module.redirected_print(("b",), end="", file=file)
    assert file.getvalue() == "a-1-(2,)\n('b',)"


def test_with_ray_a_logged_traceback_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    logging_utils = pytest.importorskip("ray.serve._private.logging_utils")
    monkeypatch.setattr(logging_utils, "buildin_print", logging_utils.buildin_print)
    monkeypatch.setattr("builtins.print", logging_utils.redirected_print)
    fix_print()
    file = io.StringIO()
    traceback.print_exception(KeyError("x"), file=file)
    assert file.getvalue() == "KeyError: 'x'\n"

"""The error of a package that writes into its own files names the place to write to."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from modelserve.replica.package import Backend
from modelserve.serve.contract import AppArgs

Make = Callable[..., AppArgs]
RAISING = (
    "import modelserve\n\nclass Echo(modelserve.AlgoBackend):\n    def _model_init(self, m=None):\n        raise {}\n"
)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("where", ["environment", "package"])
def test_a_write_into_its_own_files_names_file_reason_and_fix(
    make: Make, tmp_path: Path, number: int, where: str
) -> None:
    file = Path(sys.prefix, "lib", "x.bin") if where == "environment" else tmp_path / "Echo-0123456789ab" / "x.bin"
    args = make({"backend.py": RAISING.format(f"OSError({number}, 'no', {str(file)!r})")})
    with pytest.raises(PermissionError) as caught:
        Backend(args)
    assert str(caught.value).startswith(
        f"{file} cannot be written: packages and environments are read-only. Write to /tmp"
    )


@pytest.mark.parametrize(
    "error", ["PermissionError(13, 'no', '/etc/shadow')", "OSError(28, 'full', __file__)", "PermissionError('mine')"]
)
def test_other_errors_pass_as_they_are(make: Make, error: str) -> None:
    with pytest.raises(OSError, match=r"shadow|full|mine") as caught:
        Backend(make({"backend.py": RAISING.format(error)}))
    assert "read-only" not in str(caught.value)

"""What uv says is one line with its place and fix, and git gets passwords from the cluster's netrc."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve import hashing
from modelserve.environments import failures, git_credentials, hashes, inputs, requirements
from modelserve.environments.inputs import Inputs
from modelserve.environments.listed import Listed
from modelserve.errors import UserError
from modelserve.settings import Settings

SHOWN = "algopkg/T/requirements.txt"
LOCK = """\
numpy==2.1.3 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
scipy==1.0 \\
    --hash=sha256:cc
"""


def asked(directory: Path, text: str) -> Inputs:
    (directory / "requirements.txt").write_text(text)
    lines = requirements.read(directory / "requirements.txt", SHOWN)
    return inputs.read(Listed(tuple(lines), shown=SHOWN), (), directory, hashing.of_file)


def problem(directory: Path, text: str, stderr: str) -> str:
    settings = Settings(home=directory)
    return str(failures.resolution_problem("T", stderr, {"ray": "2.60.0"}, settings, asked(directory, text), directory))


@pytest.mark.parametrize(
    ("text", "stderr", "expected"),
    [
        (
            "numpy\nidna=1\n",
            "error: Couldn't parse requirement in `/x/requirements.txt` at position 6",
            f"{SHOWN}: line 2 is no requirement, 'idna=1': ",
        ),
        (
            "idna\nx @ git+https://example.org/x.git\n",
            "error: Git operation failed\n  Caused by: Git executable not found. Ensure that Git is installed",
            f"{SHOWN}: line 2 needs git, which the image does not have. Name git in modelserve_build_packages",
        ),
        (
            "idna\n",
            "error: because idna was not found (401 Unauthorized)",
            f"{SHOWN}: a package index wants another user or password (401 Unauthorized)",
        ),
        (
            "ray==2.9.1\n",
            "because you require ray==2.60.0 and ray==2.9.1",
            f"{SHOWN}: asks for ray==2.9.1, but the cluster runs ray 2.60.0. Remove the line, or write ray==2.60.0",
        ),
        ("idna\n", "error: no versions", f"{SHOWN}: cannot be met: no versions. Change the versions"),
    ],
)
def test_a_failure_of_uv_is_explained(tmp_path: Path, text: str, stderr: str, expected: str) -> None:
    assert problem(tmp_path, text, stderr).startswith(expected)


def test_only_the_hashes_of_a_line_are_kept(tmp_path: Path) -> None:
    found = asked(tmp_path, "NumPy==2.1.3 --hash=sha256:BB --hash=sha256:ff\nscipy\n")
    assert hashes.restricted(LOCK, found) == LOCK.replace("    --hash=sha256:aa \\\n", "")


def test_hashes_of_another_algorithm_are_left_to_the_installation(tmp_path: Path) -> None:
    found = asked(tmp_path, "scipy==1.0 --hash=sha512:dd\n")
    assert hashes.restricted(LOCK, found) == LOCK.replace("sha256:cc", "sha512:dd")


def test_a_line_for_another_python_allows_nothing(tmp_path: Path) -> None:
    found = asked(tmp_path, "scipy==1.0 ; python_version < '3' --hash=sha256:dd\n")
    assert hashes.restricted(LOCK, found) == LOCK


def test_a_hash_that_the_index_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{SHOWN}: line 1 allows scipy==1.0 with hashes that no file"):
        hashes.restricted(LOCK, asked(tmp_path, "scipy==1.0 --hash=sha256:dd\n"))


def test_git_gets_the_password_of_its_host(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine git.example.org login ci password hidden\n")
    question = "protocol=https\nhost=git.example.org:8443\n"
    assert git_credentials.answer(question, str(file)) == "username=ci\npassword=hidden\n"
    assert git_credentials.answer("protocol=https\nhost=other.example.org\n", str(file)) == ""

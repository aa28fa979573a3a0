"""environment.yml: what conda solves is kept as it was written, and another Python than the cluster's is refused."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import yaml
from modelserve.environments import conda_file
from modelserve.environments.conda_file import CondaFile
from modelserve.errors import UserError

pytest.importorskip("rattler", reason="py-rattler is in the image")

MAJOR, MINOR, _ = platform.python_version_tuple()
SHOWN = "algopkg/Echo/environment.yml"


def read(directory: Path, *dependencies: object, **others: object) -> CondaFile:
    file = directory / "environment.yml"
    file.write_text(yaml.safe_dump({"dependencies": list(dependencies), **others}))
    return conda_file.read(file, SHOWN)


def refusal(directory: Path, *dependencies: object) -> str:
    with pytest.raises(UserError) as caught:
        read(directory, *dependencies)
    (problem,) = caught.value.problems
    assert problem.file == SHOWN
    return problem.message


def test_no_file_asks_for_nothing(tmp_path: Path) -> None:
    assert conda_file.read(tmp_path / "environment.yml", SHOWN) == CondaFile()


def test_specs_are_kept_as_written_and_uv_stands_for_pip(tmp_path: Path) -> None:
    specs = ["libxcb", "conda-forge::ffmpeg=7.*", "numpy >=1.26,<2", "cuda-version 12.4", "pytorch=2.*=*cuda*"]
    pip = {"pip": ["onnxruntime==1.20", "-r more.txt"]}
    assert read(tmp_path, "pip", "python", *specs, pip, channels=["conda-forge", "defaults"]) == CondaFile(
        tuple(specs), ("conda-forge",), ("onnxruntime==1.20", "-r more.txt")
    )


@pytest.mark.parametrize(
    "spec",
    [
        "python",
        f"python={MAJOR}.{MINOR}",
        f"python {MAJOR}.{MINOR}",
        f"Python ={MAJOR}.{MINOR}",
        f"python=={platform.python_version()}",
        f"python >={MAJOR}.{MINOR}",
        f"conda-forge::python={MAJOR}.{MINOR}.*",
    ],
)
def test_the_clusters_python_may_be_asked_for(tmp_path: Path, spec: str) -> None:
    assert read(tmp_path, spec) == CondaFile()


@pytest.mark.parametrize(
    "spec", ["python=3.9", "python 3.9", "conda-forge::python=3.9", "python>=2,<3", "Python==3.9.1"]
)
def test_another_python_is_refused(tmp_path: Path, spec: str) -> None:
    message = refusal(tmp_path, "numpy", spec)
    asked = spec.removeprefix("conda-forge::")[6:].strip()
    assert message == f"asks for python{asked}, but the cluster runs Python {platform.python_version()}"


@pytest.mark.parametrize("spec", ["=1.2", "*", "python=x..y!", ""])
def test_what_is_not_a_spec_is_named(tmp_path: Path, spec: str) -> None:
    assert refusal(tmp_path, spec).startswith(f"'{spec}' is not a conda package")


@pytest.mark.parametrize("text", ["- a", "a: [", "dependencies: 1", "channels: 1"])
def test_another_document_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "environment.yml").write_text(text)
    with pytest.raises(UserError, match=SHOWN):
        conda_file.read(tmp_path / "environment.yml", SHOWN)

"""What an environment is made from: every file that requirements include counts, at any depth."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve.environments import requirements
from modelserve.errors import UserError

SHOWN = "algopkg/Echo/requirements.txt"


def read(package: Path) -> list[str]:
    return requirements.read(package / "requirements.txt", SHOWN)


def write(package: Path, **files: str) -> None:
    for name, text in files.items():
        file = package / f"{name.replace('__', '/')}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_a_file_without_includes_is_its_lines(tmp_path: Path) -> None:
    write(tmp_path, requirements="# why\nnumpy==2.1.3  # pinned\n\nscipy>=1 \\\n  ; python_version > '3'\n")
    assert read(tmp_path) == ["numpy==2.1.3", "scipy>=1    ; python_version > '3'"]


def test_no_file_asks_for_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == []


@pytest.mark.parametrize(
    "include",
    [
        "-r base.txt",
        "-rbase.txt",
        "--requirement base.txt",
        "--requirement=base.txt",
        "-c base.txt",
        "--constraint=base.txt",
    ],
)
def test_an_edited_include_changes_what_is_asked_for(tmp_path: Path, include: str) -> None:
    write(tmp_path, requirements=f"{include}\nnumpy\n", base="numpy==2.1.3\n")
    before = read(tmp_path)
    write(tmp_path, base="numpy==2.3.5\n")
    assert read(tmp_path) != before


def test_includes_are_followed_from_where_they_stand(tmp_path: Path) -> None:
    write(tmp_path, requirements="-r more/a.txt\n", more__a="-c b.txt\nscipy\n", more__b="numpy<2.4\n")
    before = read(tmp_path)
    assert before == ["-r more/a.txt", "-c b.txt", "numpy<2.4", "scipy"]
    write(tmp_path, more__b="numpy<2.3\n")
    assert read(tmp_path) != before


def test_a_circle_ends(tmp_path: Path) -> None:
    write(tmp_path, requirements="-r a.txt\n", a="-r requirements.txt\nnumpy\n")
    assert read(tmp_path) == ["-r a.txt", "-r requirements.txt", "numpy"]


def test_a_url_is_left_to_uv(tmp_path: Path) -> None:
    write(tmp_path, requirements="-r https://example.org/r.txt\n")
    assert read(tmp_path) == ["-r https://example.org/r.txt"]


def test_a_missing_include_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, requirements="numpy\n-r more/a.txt\n", more__a="\n-c ../lost.txt\n")
    with pytest.raises(
        UserError, match=r"^algopkg/Echo/more/a.txt.* line 2 includes ../lost.txt, which cannot be read"
    ) as caught:
        read(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_what_environment_yml_includes_counts_too(tmp_path: Path) -> None:
    write(tmp_path, base="numpy==2.1.3\n")
    assert requirements.with_includes(["-r base.txt"], tmp_path, "environment.yml") == ["-r base.txt", "numpy==2.1.3"]
    assert requirements.absolute("-r base.txt", tmp_path) == f"-r {tmp_path}/base.txt"
    assert requirements.absolute("numpy", tmp_path) == "numpy"

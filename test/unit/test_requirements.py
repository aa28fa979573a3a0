"""What an environment is made from: every file that requirements include counts, at any depth."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelserve import hashing
from modelserve.environments import inputs, requirements
from modelserve.environments.inputs import Inputs
from modelserve.environments.listed import Listed
from modelserve.environments.local import PLACEHOLDER
from modelserve.errors import UserError

SHOWN = "algopkg/Echo/requirements.txt"


def read(package: Path) -> list[str]:
    return [line.text for line in requirements.read(package / "requirements.txt", SHOWN)]


def refusal(package: Path) -> str:
    with pytest.raises(UserError) as caught:
        full(package)
    (line,) = str(caught.value).splitlines()
    return line


def full(package: Path) -> Inputs:
    lines = requirements.read(package / "requirements.txt", SHOWN)
    return inputs.read(Listed(tuple(lines)), (), package, hashing.of_file)


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
    lines = requirements.with_includes(["-r base.txt"], tmp_path, "environment.yml")
    assert [line.text for line in lines] == ["-r base.txt", "numpy==2.1.3"]


def test_a_circle_through_other_directories_ends(tmp_path: Path) -> None:
    write(tmp_path, requirements="-r more/a.txt\n", more__a="-r ../requirements.txt\n")
    assert read(tmp_path) == ["-r more/a.txt", "-r ../requirements.txt"]


def test_the_last_line_counts_though_it_continues(tmp_path: Path) -> None:
    write(tmp_path, requirements="numpy \\")
    assert read(tmp_path) == ["numpy"]


@pytest.mark.parametrize(
    "data",
    [
        "# café\r\nidna==3.10\r\n".encode("utf-16"),
        b"\xfe\xff" + "# café\nidna==3.10\n".encode("utf-16-be"),
        "# café\nidna==3.10\n".encode("utf-32"),
        "# café\nidna==3.10\n".encode("utf-8-sig"),
        "# -*- coding: latin-1 -*-\n# café\nidna==3.10\n".encode("latin-1"),
    ],
)
def test_a_file_is_read_in_its_encoding(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "requirements.txt").write_bytes(data)
    assert read(tmp_path) == ["idna==3.10"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\n# caf\xe9\nidna==3.10\n", "line 2 is not UTF-8 text: byte 0xe9"),
        ("idna==3.10\n".encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
        (b"# coding: klingon\nidna\n", "names an unknown encoding, klingon"),
    ],
)
def test_a_file_in_another_encoding_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "requirements.txt").write_bytes(data)
    assert refusal(tmp_path).startswith(f"{SHOWN}: {message}. Save it as UTF-8")
    (tmp_path / "more.txt").write_bytes(data)
    write(tmp_path, requirements="-c more.txt\n")
    assert refusal(tmp_path).startswith(f"algopkg/Echo/more.txt: {message}")


@pytest.mark.parametrize(
    "url",
    [
        "--extra-index-url https://me:word@example.org/simple",
        "x @ https://token@example.org/x.whl",
        "git+https://oauth2:word@example.org/x.git",
        "git+ssh://me:word@example.org/x.git",
        "-i 'https://${NAME}:word@example.org/simple'",
    ],
)
def test_a_password_is_refused_without_showing_it(tmp_path: Path, url: str) -> None:
    write(tmp_path, requirements=f"numpy\n{url}\n")
    message = refusal(tmp_path)
    assert message.startswith(f"{SHOWN}: line 2 holds a user or a password for example.org")
    assert "word@" not in message and "token" not in message


def test_a_user_of_ssh_is_no_password(tmp_path: Path) -> None:
    write(tmp_path, requirements="git+ssh://git@example.org/x.git\n")
    assert full(tmp_path).facts("") == []


def test_lines_of_conda_are_explained_in_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        requirements="idna==3.10\ncertifi @ file:///croot/certifi_1/work\n"
        "cffi @ file:///home/conda/feedstock_root/build_artifacts/cffi_1/work\n",
    )
    assert refusal(tmp_path) == (
        f"{SHOWN}: line 2 names /croot/certifi_1/work, a directory of the machine where conda's package was built: "
        "'pip freeze' writes such lines for what conda installed (2 lines here). Write certifi==VERSION; 'pip list "
        "--format=freeze' writes all lines so"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("./x-1.0-py3-none-any.whl", "names ./x-1.0-py3-none-any.whl, which does not exist in the directory of"),
        ("x @ file:///data/x.whl", "names /data/x.whl, which does not exist. Put x.whl below algopkg/"),
        ("-f wheels", "names wheels, which does not exist. Put the packages that --find-links offers"),
        ("-f requirements.txt", "names requirements.txt, which is not a directory"),
        ("./more", "names the directory ./more, which is no package"),
        ("./requirements.txt", "names ./requirements.txt, which is no package"),
        ("-f", "has --find-links without a value"),
    ],
)
def test_a_path_without_a_package_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "more").mkdir()
    write(tmp_path, requirements=f"numpy\n{line}\n")
    assert refusal(tmp_path).startswith(f"{SHOWN}: line 2 {message}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("./x-1-py3-none-any.whl", "file://{}/x-1-py3-none-any.whl"),
        ("./x-1-py3-none-any.whl ; python_version > '3'", "file://{}/x-1-py3-none-any.whl ; python_version > '3'"),
        ("x-1-py3-none-any.whl --hash=sha256:00", "file://{}/x-1-py3-none-any.whl --hash=sha256:00"),
        ("x@./x-1-py3-none-any.whl", "x @ file://{}/x-1-py3-none-any.whl"),
        ("x[a, b] @ file:x-1-py3-none-any.whl#sha256=00", "x[a, b] @ file://{}/x-1-py3-none-any.whl#sha256=00"),
        ("file:///${{PROJECT_ROOT}}/x-1-py3-none-any.whl", "file://{}/x-1-py3-none-any.whl"),
    ],
)
def test_a_line_names_the_content_of_its_file(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "x-1-py3-none-any.whl"
    file.write_bytes(b"x")
    write(tmp_path, requirements=line.format() + "\n")
    found = full(tmp_path)
    directory = f"{PLACEHOLDER}/{hashing.of_file(file)[:12]}"
    assert list(found.texts.values()) == [expected.replace("{}", directory)]


@pytest.mark.parametrize(
    "line",
    [
        "numpy==2.1.3",
        "numpy>=2,<3 ; python_version > '3' # why",
        "x @ https://example.org/x-1.0-py3-none-any.whl",
        "git+https://example.org/x.git@main",
        "-e git+https://example.org/x.git@main#egg=x",
        "https://example.org/x.tar.gz",
        "numpy[a]==2.1.3 --hash=sha256:00",
    ],
)
def test_what_comes_from_elsewhere_is_left_to_uv(tmp_path: Path, line: str) -> None:
    write(tmp_path, requirements=f"{line}\n")
    found = full(tmp_path)
    assert list(found.texts.values()) == [line.partition(" # ")[0].removeprefix("-e ")]
    assert found.facts("") == []


def test_options_are_read_as_pip_reads_them(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    write(
        tmp_path,
        requirements="--pre --prefer-binary\n-i https://a.example/simple --extra-index-url=https://b.example\n"
        "--trusted-host b.example\n--no-binary a,b\n--only-binary :all:\n-fhttps://c.example/links\n",
    )
    found = full(tmp_path).options
    assert found.prerelease
    assert found.lines == (
        "--index-url https://a.example/simple",
        "--extra-index-url https://b.example",
        "--trusted-host b.example",
        "--no-binary a",
        "--no-binary b",
        "--only-binary :all:",
        "--find-links https://c.example/links",
    )

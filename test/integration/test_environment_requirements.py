"""Requirements as authors write them, with the real uv: each kind is resolved, installed, and part of the identity."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from local_packages import Machine, index, machine, source_tree
from modelserve.errors import UserError
from wheels import wheel

__all__ = ["machine"]
LONG = pytest.mark.long
VERSION = "import zzlocal; print(zzlocal.VERSION)"


def problem(machine: Machine) -> str:
    with pytest.raises(UserError) as caught:
        machine.build()
    (line,) = str(caught.value).splitlines()
    return line


def test_the_index_options_of_a_file_reach_the_installation(machine: Machine, tmp_path: Path) -> None:
    built = wheel(tmp_path / "made", "zzlocal", "1.0+cpu")
    machine.write("requirements.txt", f"--extra-index-url {index(tmp_path / 'idx', built)}\nzzlocal==1.0+cpu\n")
    assert machine.run(VERSION) == "1.0+cpu"


@pytest.mark.parametrize(
    "line", ["--find-links wheels", *(pytest.param(line, marks=LONG) for line in ("--find-links={}", "-f file://{}"))]
)
def test_a_directory_of_archives_counts_with_its_content(machine: Machine, line: str) -> None:
    wheels = machine.package / "wheels"
    wheel(wheels, "zzlocal", "1.0+cpu")
    machine.write("requirements.txt", f"{line.format(wheels)}\nzzlocal\n")
    assert machine.run(VERSION) == "1.0+cpu"
    wheel(wheels, "zzlocal", "1.1+cpu")
    assert machine.run(VERSION) == "1.1+cpu"
    wheel(wheels, "zzlocal", "1.1+cpu", "VERSION = 'rebuilt'")
    assert machine.run(VERSION) == "rebuilt"


@pytest.mark.parametrize(
    "line",
    [
        "./wheels/zzlocal-1.0-py3-none-any.whl",
        pytest.param("wheels/zzlocal-1.0-py3-none-any.whl", marks=LONG),
        pytest.param("zzlocal @ ./wheels/zzlocal-1.0-py3-none-any.whl ; python_version > '3'", marks=LONG),
        pytest.param("zzlocal @ file://{}/zzlocal-1.0-py3-none-any.whl", marks=LONG),
        pytest.param("{}/zzlocal-1.0-py3-none-any.whl", marks=LONG),
    ],
)
def test_a_wheel_is_found_from_its_file_and_counts_with_its_content(machine: Machine, line: str) -> None:
    wheels = machine.package / "wheels"
    wheel(wheels, "zzlocal", "1.0", requires=("other",))
    machine.write("requirements.txt", line.format(wheels) + "\n")
    assert machine.run(VERSION) == "1.0"
    assert machine.run("import other; print(other.VERSION)") == "2.0"
    wheel(wheels, "zzlocal", "1.0", "VERSION = 'rebuilt'")
    assert machine.run(VERSION) == "rebuilt"


@pytest.mark.parametrize(
    "line",
    [
        "-e ./lib",
        *(pytest.param(line, marks=LONG) for line in ("lib/", "zzlocal @ file://{}", "--editable=./lib[serve]")),
    ],
)
def test_a_directory_is_built_again_when_a_file_of_it_changes(machine: Machine, line: str) -> None:
    tree = source_tree(machine.package / "lib", "zzlocal", "VERSION = 'first'")
    machine.write("requirements.txt", line.format(tree) + "\n")
    assert machine.run(VERSION) == "first"
    source_tree(machine.package / "lib", "zzlocal", "VERSION = 'second'")
    assert machine.run(VERSION) == "second"
    assert not list(machine.store.root.rglob(".local"))
    assert sorted(path.name for path in (machine.package / "lib").iterdir()) == [
        "backend.py",
        "pyproject.toml",
        "zzlocal.py",
    ]


@pytest.mark.long
@pytest.mark.parametrize("line", ["./my wheels/zzlocal-1.0+cpu-py3-none-any.whl", "--find-links 'my wheels'\nzzlocal"])
def test_names_of_any_characters_are_found(machine: Machine, line: str) -> None:
    wheel(machine.package / "my wheels", "zzlocal", "1.0+cpu")
    machine.write("requirements.txt", f"{line}\n")
    assert machine.run(VERSION) == "1.0+cpu"


def test_paths_begin_at_the_file_that_names_them(machine: Machine) -> None:
    wheel(machine.package / "more" / "wheels", "zzlocal", "1.0")
    machine.write("requirements.txt", "-r more/a.txt\n")
    machine.write("more/a.txt", "./wheels/zzlocal-1.0-py3-none-any.whl\n-c b.txt\nother\n")
    machine.write("more/b.txt", "other<2\n")
    assert machine.run(VERSION) == "1.0"
    assert machine.run("import other; print(other.VERSION)") == "1.0"


@pytest.mark.long
def test_environment_yml_names_files_and_options_too(machine: Machine) -> None:
    wheel(machine.package / "wheels", "zzlocal", "1.0+cpu")
    text = "dependencies:\n- pip:\n  - --find-links wheels\n  - zzlocal\n"
    machine.write("environment.yml", text.encode("utf-16"))
    assert machine.run(VERSION) == "1.0+cpu"


def test_a_lock_is_the_same_wherever_the_project_lies(machine: Machine, tmp_path: Path) -> None:
    wheel(machine.package / "wheels", "zzlocal", "1.0")
    source_tree(machine.package / "lib", "zzother", "")
    machine.write("requirements.txt", "--find-links wheels\nzzlocal\n./lib\n")
    before = machine.resolve()
    assert str(tmp_path) not in before.lock
    moved = Machine(tmp_path / "moved", machine.settings)
    moved.home.mkdir()
    machine.home.joinpath("algopkg").rename(moved.home / "algopkg")
    assert moved.resolve().lock == before.lock


def commit(tree: Path) -> str:
    """Commit a directory's files to its branch main, and return the commit."""
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_branch_becomes_a_commit(machine: Machine, tmp_path: Path) -> None:
    tree = source_tree(tmp_path / "repository", "zzlocal", "VERSION = 'of git'")
    first = commit(tree)
    machine.write("requirements.txt", f"zzlocal @ git+file://{tree}@main\n")
    assert machine.run(VERSION) == "of git"
    assert first in machine.build().lock


def test_a_hash_of_the_file_is_verified(machine: Machine, tmp_path: Path) -> None:
    machine.write("requirements.txt", f"other==1.0 --hash=sha256:{'0' * 64}\n")
    assert problem(machine).startswith("algopkg/T/requirements.txt: line 1 allows other==1.0 with hashes that")
    (file,) = (tmp_path / "index" / "other").glob("*1.0*")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    machine.write("requirements.txt", f"other==1.0 \\\n  --hash=sha256:{digest}\n")
    assert machine.run("import other; print(other.VERSION)") == "1.0"


@pytest.mark.long
def test_pre_takes_prereleases(machine: Machine, tmp_path: Path) -> None:
    index(tmp_path / "index", wheel(tmp_path / "made", "other", "3.0rc1"))
    machine.write("requirements.txt", "other\n")
    assert machine.run("import other; print(other.VERSION)") == "2.0"
    machine.write("requirements.txt", "--pre\nother\n")
    assert machine.run("import other; print(other.VERSION)") == "3.0rc1"


def test_the_index_strategy_is_a_setting(machine: Machine, tmp_path: Path) -> None:
    url = index(tmp_path / "idx", wheel(tmp_path / "made", "other", "0.5"))
    machine.write("requirements.txt", f"--extra-index-url {url}\nother>=1\n")
    assert "modelserve_uv_index_strategy" in problem(machine)
    machine.settings["index_strategy"] = "unsafe-best-match"
    assert machine.run("import other; print(other.VERSION)") == "2.0"


@pytest.mark.long
def test_a_file_s_own_index_takes_the_place_of_the_cluster_s(machine: Machine, tmp_path: Path) -> None:
    machine.write("requirements.txt", f"-i {machine.settings['index_url']}\nother\n")
    machine.settings["index_url"] = (tmp_path / "nowhere").as_uri()
    assert machine.run("import other; print(other.VERSION)") == "2.0"


def test_a_file_of_powershell_is_read(machine: Machine) -> None:
    machine.write("requirements.txt", "# café\r\nother==1.0\r\n".encode("utf-16"))
    assert machine.run("import other; print(other.VERSION)") == "1.0"


def test_what_uv_refuses_is_one_line_with_its_place(machine: Machine) -> None:
    machine.write("requirements.txt", "-r more.txt\n")
    machine.write("more.txt", "other\n\nother = 1.0\n")
    assert problem(machine).startswith("algopkg/T/more.txt: line 3 is no requirement, 'other = 1.0'")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The URL of an index that wants the user "ci" with the password "hidden-word"."""
    expected = "Basic " + base64.b64encode(b"ci:hidden-word").decode()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self) -> None:
            if self.headers.get("Authorization") == expected:
                super().do_GET()
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def set_netrc(machine: Machine, host: str) -> None:
    """Set the cluster's secret as the role serve_deploy does."""
    secrets = machine.home / "secrets"
    secrets.mkdir(mode=0o700)
    text = f"machine {host} login ci password hidden-word"
    (secrets / "inventory.json").write_text(json.dumps({"netrc": text}))


def test_a_password_of_the_cluster_s_netrc_is_in_no_file_of_the_store(
    machine: Machine, tmp_path: Path, guarded: str
) -> None:
    index(tmp_path / "idx", wheel(tmp_path / "made", "zzlocal", "1.0+cpu"))
    direct = wheel(tmp_path / "made", "zzdirect", "1.0")
    machine.write(
        "requirements.txt", f"--extra-index-url {guarded}/idx\nzzlocal\nzzdirect @ {guarded}/made/{direct.name}\n"
    )
    message = problem(machine)
    assert message.startswith("algopkg/T/requirements.txt: a package index wants another user or password (401")
    assert "Set the secret netrc of modelserve_secrets" in message
    set_netrc(machine, "127.0.0.1")
    assert machine.run(VERSION) == "1.0+cpu"
    files = [path for path in machine.store.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    assert not [path for path in files if b"hidden-word" in path.read_bytes() or "hidden-word" in path.name]


@pytest.mark.long
def test_git_asks_the_cluster_s_netrc(
    machine: Machine, tmp_path: Path, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "files"))  # the image has modelserve.pth
    tree = source_tree(tmp_path / "repository", "zzlocal", "VERSION = 'of git'")
    commit(tree)
    subprocess.run(["git", "clone", "-q", "--bare", str(tree), str(tmp_path / "x.git")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "x.git"), "update-server-info"], check=True)
    machine.write("requirements.txt", f"zzlocal @ git+{guarded}/x.git@main\n")
    set_netrc(machine, "127.0.0.1")
    assert machine.run(VERSION) == "of git"


def test_a_plain_file_has_the_lock_that_it_always_had(machine: Machine) -> None:
    machine.write("requirements.txt", "other==1.0\n")
    lock = machine.resolve().lock
    assert [line.split()[0] for line in lock.splitlines() if "==" in line] == [
        "orjson==3.0",
        "other==1.0",
        "pydantic==2.0",
        "python-multipart==1.0",
        "ray==2.60.0",
    ]
    assert lock.startswith("orjson==3.0 \\\n    --hash=sha256:")

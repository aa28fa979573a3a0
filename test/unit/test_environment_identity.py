"""The identity of an environment: an edit of any file that takes part changes it, an edit of another does not."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve import hashing
from modelserve.environments import inputs, resolve, uv
from modelserve.environments.resolve import EnvironmentResolver
from modelserve.settings import Settings
from modelserve.store.store import Store

BASE_LOCK = "ray==2.60.0\n"
PROJECT = {
    "requirements.txt": "-r more/base.txt\n./wheels/a-1-py3-none-any.whl\n-e ./lib\n--find-links links\nnumpy==2.1.3\n",
    "more/base.txt": "-c limits.txt\n../wheels/b-1-py3-none-any.whl\n--extra-index-url ../index\n",
    "more/limits.txt": "scipy<2\n",
    "environment.yml": "dependencies:\n- pip:\n  - -r more/conda.txt\n",
    "more/conda.txt": "onnx\n",
    "wheels/a-1-py3-none-any.whl": "a",
    "wheels/b-1-py3-none-any.whl": "b",
    "lib/pyproject.toml": "[project]\nname = 'lib'\n",
    "lib/lib/deep/module.py": "x = 1\n",
    "links/c-1-py3-none-any.whl": "c",
    "index/d/index.html": "<a href='d-1.whl'>",
    "index/d/d-1.whl": "d",
}
OTHERS = {
    "backend.py": "",
    "README.md": "",
    "wheels/old-1-py3-none-any.whl": "",
    "links/notes.txt": "",
    "more/no.txt": "",
}


class Resolver(EnvironmentResolver):
    """A resolver whose lock is what it would be made from."""

    def _resolve(self, name: str, asked: inputs.Inputs) -> str:
        texts = [text for lines in (asked.lines, asked.conda_lines) for text in asked.requirements(lines, Path("/s"))]
        return "\n".join([*asked.options.lines, *texts])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("image")
    (prefix / "base.lock").write_text(BASE_LOCK)
    return prefix


def write(package: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)


def identity(package: Path, image: Path) -> tuple[str, str]:
    """Return the names of the lock and of the environment of a package."""
    pytest.importorskip("rattler", reason="py-rattler is in the image")
    home = package.parents[1]
    shutil.rmtree(home / "store" / "lock", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uv, "IMAGE_PREFIX", image)
        environment = Resolver(Settings(home=home), Store(home / "store")).of_package("T", package)
    (lock,) = (home / "store" / "lock").iterdir()
    return lock.name, environment.path.name


edits = st.lists(st.tuples(st.sampled_from(sorted({**PROJECT, **OTHERS})), st.text("xyz", min_size=1)), max_size=4)


@given(edits=edits)
def test_the_lock_is_remembered_by_every_file_that_takes_part(image: Path, edits: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory) / "algopkg" / "T"
        write(package, {**PROJECT, **OTHERS})
        before = identity(package, image)
        for name, text in edits:
            line = f"  - edited-{text}\n" if name.endswith(".yml") else f"edited-{text}\n"
            (package / name).write_text({**PROJECT, **OTHERS}[name] + line)
        after = identity(package, image)
        assert (after[0] != before[0]) == any(name in PROJECT for name, _ in edits)


def test_what_no_new_feature_touches_keeps_its_names(tmp_path: Path, image: Path) -> None:
    package = tmp_path / "algopkg" / "T"
    write(package, {"requirements.txt": "# why\nnumpy==2.1.3  # pinned\n-r more.txt\n", "more.txt": "scipy\n"})
    lock, environment = identity(package, image)
    python = [resolve.platform.python_version(), resolve.platform.machine()]
    lines = ["numpy==2.1.3", "-r more.txt", "scipy"]
    assert lock == f"T-{hashing.of_value([lines, [], BASE_LOCK, *python])}.txt"
    channels = [str(resolve.IMAGE_CHANNEL)]
    content = ["numpy==2.1.3\nscipy", BASE_LOCK, [], channels, *python]
    assert environment == f"T-{hashing.of_value(content)}"

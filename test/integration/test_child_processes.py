"""Processes that a package starts import what it imports, and pickles find its classes: as on the author's machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import modelserve
import pytest
from modelserve.replica.arguments import TryOnceArgs
from modelserve.serve.contract import AppArgs
from modelserve.store.store import Store

SOURCE = str(Path(modelserve.__file__).parents[1])

BACKEND = """\
import asyncio, multiprocessing, os, pickle, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import modelserve
from .words import Word
from .._shared.text import twice

IMPORTED = asyncio.run(asyncio.sleep(0, "ran"))


def work(number):
    from helper import PLAIN  # plainly, as packages of the original framework do

    return twice(number), PLAIN, Word("a").text, os.getpid()


class Echo(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst=None):
        self.loaded = asyncio.run(asyncio.sleep(0, "loaded"))
        self.data = (Path(__file__).parent / "data" / "words.txt").read_text()

    def _model_inference(self, params):
        way = params["way"]
        if way == "pickle":
            return [pickle.loads(bytes(pickled)).text for pickled in params["pickles"]]
        if way == "loop":
            loop = asyncio.get_event_loop()
            return [IMPORTED, self.loaded, self.data, loop.run_until_complete(asyncio.sleep(0, "inferred"))]
        if way == "subprocess":
            code = "from algopkg.Echo.backend import work; print(work(4))"
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        if way == "loky":
            import joblib
            return of_others(joblib.Parallel(n_jobs=2)(joblib.delayed(work)(number) for number in (1, 2)))
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(way)) as pool:
            return of_others(pool.map(work, [1, 2]))


def of_others(results):
    return [[*values, pid != os.getpid()] for *values, pid in results]
"""
FILES = {
    "Echo/__init__.py": "",
    "Echo/backend.py": BACKEND,
    "Echo/words.py": "class Word:\n    def __init__(self, text):\n        self.text = text\n",
    "Echo/helper.py": "PLAIN = 'plain'\n",
    "Echo/data/words.txt": "good\n",
    "_shared/text.py": "def twice(number):\n    return 2 * number\n",
}


@pytest.fixture(params=["project", "snapshot"])
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The package as `modelserve test` has it, and as a replica does."""
    for name, text in FILES.items():
        file = tmp_path / "algopkg" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    source = tmp_path / "algopkg" / "Echo"
    return source if request.param == "project" else Store(tmp_path / "store").add_package("Echo", source)


def tried(package: Path, params: dict[str, Any], python: str = sys.executable, path: str = "") -> Any:
    """Return the result of one request to the package, in a Python of its own."""
    arguments = TryOnceArgs(app=AppArgs(name="Echo", package=str(package), backend="Echo"), params=params)
    command = [python, "-m", "modelserve.replica.try_once", arguments.model_dump_json()]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [SOURCE, path]))}
    run = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, timeout=100, check=False)
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["ok"], run.stderr
    return answer["answer"]["result"]


def test_a_spawned_process_imports_the_package(package: Path) -> None:
    assert tried(package, {"way": "spawn"}) == [[2, "plain", "a", True], [4, "plain", "a", True]]


@pytest.mark.long
@pytest.mark.parametrize("way", ["forkserver", "fork"])
def test_the_other_ways_to_start_a_process_import_it_too(package: Path, way: str) -> None:
    assert tried(package, {"way": way}) == [[2, "plain", "a", True], [4, "plain", "a", True]]


@pytest.mark.long
def test_a_python_that_the_package_starts_imports_it(package: Path) -> None:
    # Its modules by their plain names are the package's own way of importing, not one of any Python.
    assert "ModuleNotFoundError" not in tried(package, {"way": "subprocess"}, path=str(package))


@pytest.mark.long
def test_event_loops_and_data_files_are_at_hand_while_loading_and_inferring(package: Path) -> None:
    assert tried(package, {"way": "loop"}) == ["ran", "loaded", "good\n", "inferred"]


@pytest.mark.long
def test_a_pickle_of_a_script_finds_the_script_s_classes(package: Path) -> None:
    # What `python words.py` pickles refers to __main__.
    script = FILES["Echo/words.py"] + "import pickle, sys\nprint(list(pickle.dumps(Word('kept'))))\n"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert tried(package, {"way": "pickle", "pickles": [json.loads(run.stdout)]}) == ["kept"]


@pytest.mark.long
def test_the_workers_of_joblib_import_the_package(package: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [str(tmp_path / "venv" / "bin" / "pip"), "install", "--quiet", "joblib==1.5.2"]
    subprocess.run(pip, check=True, capture_output=True)
    (libraries,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    result = tried(package, {"way": "loky"}, path=str(libraries))
    assert result == [[2, "plain", "a", True], [4, "plain", "a", True]]

"""The example projects: each package in an environment of its own answers a real input, its warm-up first."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import unused_port
from modelserve.config import parser
from modelserve.config.section import Section
from modelserve.models import zoo
from modelserve.models.entry import Model
from modelserve.replica.arguments import LocalServerArgs, TryOnceArgs
from modelserve.serve.application import args_of
from modelserve.serve.contract import UserConfig

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# What every algorithm's environment has from the image's base.
BASE = ("orjson", "pydantic", "starlette", "uvicorn", "httptools", "python-multipart", "pyyaml")
pytestmark = pytest.mark.long


class Example:
    """An example project with the environment of its one package.

    Args:
        project: its directory.
        scratch: an empty directory.
    """

    def __init__(self, project: Path, scratch: Path) -> None:
        conf, _ = parser.load(project / "conf.ini")
        (self.section,) = conf.sections
        self.package = project / "algopkg" / self.section.name
        self.zoo = project / "Model_ZOO"
        self.python = scratch / "venv" / "bin" / "python"
        uv = [str(Path(sys.executable).with_name("uv"))]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(scratch / "venv")], check=True)
        install = ["pip", "install", "--quiet", "--python", str(self.python), "--requirements"]
        subprocess.run([*uv, *install, str(self.package / "requirements.txt"), *BASE], check=True, env=index())

    def run(self, module: str, argument: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **self.section.env, "PYTHONPATH": str(ROOT / "files")}
        command = [str(self.python), "-m", f"modelserve.replica.{module}", argument]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, cwd=self.package)

    def warm_up(self) -> Any:
        """Return the answer to the warm-up, as ``modelserve test`` asks it."""
        section = self.section
        argument = TryOnceArgs(app=self.args, params=section.warmup or {}).model_dump_json()
        output, _ = self.run("try_once", argument).communicate(timeout=120)
        document = json.loads(output.splitlines()[-1])
        assert document["ok"], document
        return document["answer"]

    @property
    def args(self) -> Any:
        return args_of(self.section, self.package, [self.zoo / model for model in self.section.model])

    @contextmanager
    def served(self) -> Iterator[httpx.Client]:
        """Serve the package as ``modelserve serve`` does; yield a client of it."""
        port, section = unused_port(), self.section
        config = UserConfig(user_config=section.user_config, warmup=section.warmup)
        arguments = LocalServerArgs(app=self.args, config=config, port=port, route=f"/{section.route}", as_json=True)
        process = self.run("local_server", arguments.model_dump_json())
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
                for _ in range(600):
                    assert process.poll() is None
                    try:
                        client.get(f"/{section.route}/schema").raise_for_status()
                        break
                    except httpx.TransportError:
                        time.sleep(0.1)
                yield client
        finally:
            process.terminate()
            process.wait(30)


def index() -> dict[str, str]:
    """Return the environment of uv, with the index that pip is configured with."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    url = subprocess.run(pip, capture_output=True, text=True, check=False).stdout.strip()
    return {**os.environ, "UV_SYSTEM_CERTS": "1", **({"UV_DEFAULT_INDEX": url} if url else {})}


def fetched(name: str, tmp_path: Path) -> Example:
    """Return an example whose models are fetched, as a deploy does."""
    directory = EXAMPLES / name / "Model_ZOO"
    entries = yaml.safe_load((directory / "models.yml").read_text())
    if all(entry.keys() <= Model.model_fields.keys() for entry in entries):
        zoo.fetch(directory, print)
    elif not all((directory / (entry.get("file") or entry["directory"])).exists() for entry in entries):
        pytest.skip("models.yml of this version cannot describe a directory")
    return Example(EXAMPLES / name, tmp_path)


def test_text_in_an_image_is_read(tmp_path: Path) -> None:
    drawing = pytest.importorskip("PIL.ImageDraw")
    from PIL import Image, ImageFont

    image = Image.new("RGB", (640, 200), "white")
    drawing.Draw(image).text((20, 20), "Invoice 20471", "black", ImageFont.load_default(60))
    drawing.Draw(image).text((20, 110), "Total 118.50", "black", ImageFont.load_default(60))
    png = io.BytesIO()
    image.save(png, "PNG")
    example = fetched("ocr", tmp_path)
    assert [line["text"] for line in example.warm_up()["result"]] == ["Invoice 20471", "Total 118.50"]
    with example.served() as client:
        answer = client.post("/read", files={"image": ("a.png", png.getvalue(), "image/png")})
        lines = answer.json()["result"]
        assert [line["text"].replace(" ", "") for line in lines] == ["Invoice20471", "Total118.50"], answer.text
        assert all(line["score"] > 0.9 and len(line["corners"]) == 4 for line in lines)
        blank = io.BytesIO()
        Image.new("RGB", (64, 64), "white").save(blank, "PNG")
        assert client.post("/read", files={"image": ("b.png", blank.getvalue())}).json()["result"] == []
        refused = client.post("/read", files={"image": ("a.png", b"no image")})
        assert (refused.status_code, refused.json()["code"]) == (422, "not_an_image")


def test_rows_of_a_table_are_classified(tmp_path: Path) -> None:
    example = Example(EXAMPLES / "tabular", tmp_path)
    row = (example.section.warmup or {})["rows"][0]
    assert example.warm_up()["result"][0]["cultivar"] == 0
    with example.served() as client:
        rows = [row, {**row, "alcohol": 12.0, "color_intensity": 2.0, "proline": 400, "hue": 1.1}]
        result = client.post("/wine", json={"rows": rows * 500}).json()["result"]
        assert [one["cultivar"] for one in result[:2]] == [0, 1] and len(result) == 1000
        assert all(abs(sum(one["probabilities"]) - 1) < 1e-6 for one in result)
        refused = client.post("/wine", json={"rows": [{**row, "hue": "red"}]})
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
        assert "hue" in refused.text
    # The model that is committed is what the script makes.
    made = tmp_path / "wine.skops"
    command = [str(example.python), str(example.package / "train.py"), str(made)]
    script = subprocess.run(command, capture_output=True, text=True, check=False)
    assert script.stdout.startswith("accuracy 0.9"), script.stderr
    (tmp_path / "Model_ZOO").mkdir()
    made.rename(tmp_path / "Model_ZOO" / "wine.skops")
    example.zoo = tmp_path / "Model_ZOO"
    assert example.warm_up()["result"][0]["cultivar"] == 0


def test_speech_in_a_recording_is_found(tmp_path: Path) -> None:
    example = fetched("speech", tmp_path)
    recording = (example.package / "example.flac").read_bytes()
    (spoken,) = example.warm_up()["result"]["segments"]
    assert spoken["end_s"] - spoken["start_s"] > 0.5
    with example.served() as client:
        answer = client.post("/speech", content=recording, headers={"Content-Type": "audio/flac"}).json()["result"]
        assert answer["segments"] == [spoken]
        assert client.post("/speech", files={"audio": ("a.flac", recording)}).json()["result"] == answer
        silence = client.post("/speech", content=wav(seconds=2), headers={"Content-Type": "audio/wav"}).json()
        assert silence["result"] == {"duration_s": 2, "segments": []}
        refused = client.post("/speech", content=b"no audio", headers={"Content-Type": "audio/wav"})
        assert (refused.status_code, refused.json()["code"]) == (422, "not_a_recording")


def wav(seconds: int, rate: int = 44100) -> bytes:
    """Return a tone of a low pitch, which is no speech."""
    import math
    import struct
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as stream:
        stream.setparams((1, 2, rate, 0, "NONE", ""))
        samples = (int(8000 * math.sin(2 * math.pi * 110 * number / rate)) for number in range(seconds * rate))
        stream.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file.getvalue()


@pytest.mark.parametrize("project", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_an_example_is_a_project_of_its_own(project: str) -> None:
    conf, _ = parser.load(EXAMPLES / project / "conf.ini")
    (section,) = conf.sections
    assert isinstance(section, Section) and section.warmup
    assert (EXAMPLES / project / "README.md").is_file()

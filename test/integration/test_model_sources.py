"""Models come from real servers, with the libraries that users have: requirements-models-test.lock has them."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from model_servers import LOGIN, Hub, registry, served
from modelserve import hashing
from modelserve.errors import UserError
from modelserve.models import zoo as models
from modelserve.models.sources import buckets

FILES = {
    "config.json": b"{}",
    "1_Pooling/config.json": b"[]",
    "model.bin": bytes(range(256)) * 8000,
    "README.md": b"# net",
}


def needs(*libraries: str) -> pytest.MarkDecorator:
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"without {', '.join(missing)}: run 'make integration-models'")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / "Model_ZOO"
    directory.mkdir()
    return directory


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "published"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def describe(zoo: Path, **entry: Any) -> None:
    (zoo / "models.yml").write_text(yaml.safe_dump([entry]))


def pin_and_fetch(zoo: Path, name: str) -> dict[str, Any]:
    """Pin the only entry; the model is fetched, and fetched again where it is missing. Return the entry."""
    written = models.pin(zoo, name, print)
    (entry,) = yaml.safe_load((zoo / "models.yml").read_text())
    assert written.items() <= entry.items()
    assert models.fetch(zoo, print) == []
    (zoo / name).rename(zoo.parent / f"{name}.first")
    assert models.fetch(zoo, print) == [name]
    assert hashing.of_model(zoo / name) == entry["sha256"]
    assert sorted(path.name for path in zoo.iterdir()) == sorted([name, "models.yml"])
    return dict(entry)


def refused(zoo: Path) -> str:
    with pytest.raises(UserError) as caught:
        models.fetch(zoo, print)
    (problem,) = caught.value.problems
    assert "\n" not in str(problem) and problem.fix
    return str(problem)


# --- Hugging Face


@pytest.fixture
def hub(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served(Hub(dict(FILES))) as hub:
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
            del sys.modules[name]  # it reads its variables when it is imported
        yield hub


@needs("huggingface_hub")
@pytest.mark.long
def test_a_directory_comes_from_hugging_face_at_a_commit(zoo: Path, hub: Hub, tree: Path) -> None:
    describe(zoo, directory="net", hf="org/net", revision="main", files=["*.json", "model.bin"])
    entry = pin_and_fetch(zoo, "net")
    assert entry["revision"] == hub.commit
    (tree / "README.md").unlink()
    assert entry["sha256"] == hashing.of_model(tree)
    assert not (zoo / "net" / ".cache").exists()


@needs("huggingface_hub")
@pytest.mark.long
def test_one_file_comes_from_hugging_face(zoo: Path, hub: Hub) -> None:
    describe(zoo, file="pooling.json", hf="org/net", files=["1_Pooling/config.json"])
    assert pin_and_fetch(zoo, "pooling.json")["revision"] == hub.commit
    assert (zoo / "pooling.json").read_bytes() == b"[]"


@needs("huggingface_hub")
@pytest.mark.long
def test_a_download_from_hugging_face_goes_on_where_it_stopped(zoo: Path, hub: Hub) -> None:
    hub.files["model.bin"] = bytes(12_000_000)  # its client writes parts of 10 MiB
    hub.breaks = [11_000_000]
    describe(
        zoo,
        file="model.bin",
        hf="org/net",
        revision=hub.commit,
        sha256=hashlib.sha256(hub.files["model.bin"]).hexdigest(),
    )
    assert models.fetch(zoo, print) == ["model.bin"]
    assert hub.ranges[0] == "" and hub.ranges[1].startswith(f"bytes={10 * 2**20}-")


@needs("huggingface_hub")
@pytest.mark.long
def test_what_hugging_face_refuses_is_one_line(zoo: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"sha256": "0" * 64, "hf": "org/net"}
    describe(zoo, **entry, file="x", revision=hub.commit, files=["*.onnx"])
    assert "no file of the repository is selected by *.onnx; there are 1_Pooling/config.json" in refused(zoo)
    describe(zoo, **entry, file="x", revision=hub.commit, files=["*.json"])
    assert "x is one file, and 'files' selects 2" in refused(zoo)
    describe(zoo, **entry, directory="x", revision="b" * 40)
    assert "HF_TOKEN" in refused(zoo)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    describe(zoo, **entry, directory="x", revision=hub.commit)
    message = refused(zoo)
    assert "HF_TOKEN" in message and "hf_wrong" not in message
    assert [path.name for path in zoo.iterdir()] == ["models.yml"]


# --- buckets


@pytest.fixture
def bucket(zoo: Path, tree: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port, verbose=False)
    server.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    urllib.request.urlopen(f"http://127.0.0.1:{free_port}/moto-api/reset", data=b"").close()
    system = s3fs.S3FileSystem()
    system.mkdir("models")
    system.put(str(tree), "models/net", recursive=True)
    system.pipe("models/net/", b"")  # what consoles make for a directory
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@needs("s3fs", "moto")
@pytest.mark.long
def test_a_directory_and_a_file_come_from_a_bucket(zoo: Path, bucket: Any, tree: Path) -> None:
    describe(zoo, directory="net", url="s3://models/net")
    assert pin_and_fetch(zoo, "net")["sha256"] == hashing.of_model(tree)
    describe(zoo, file="model.bin", url="s3://models/net/model.bin")
    (zoo / "net").rename(zoo.parent / "aside")
    assert pin_and_fetch(zoo, "model.bin")["sha256"] == hashing.of_file(tree / "model.bin")


@needs("s3fs", "moto")
@pytest.mark.long
def test_objects_that_are_complete_are_not_fetched_again(
    zoo: Path, bucket: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(zoo, directory="net", url="s3://models/net", sha256=hashing.of_model(tree))
    get, asked = buckets._get, []

    def breaking(system: Any, name: str, target: Path, size: int) -> None:
        there = target.exists()
        if name.endswith("model.bin") and not asked.count(name):
            asked.append(name)
            target.with_name(f"{target.name}.part").write_bytes(b"half")
            raise ConnectionResetError("the connection was reset")
        asked.extend([] if there else [name])
        get(system, name, target, size)

    monkeypatch.setattr(buckets, "_get", breaking)
    assert "the connection was reset" in refused(zoo)
    assert len(asked) == len(FILES)
    assert models.fetch(zoo, print) == ["net"]
    assert [Path(name).name for name in asked[len(FILES) :]] == ["model.bin"]


@needs("s3fs", "moto")
@pytest.mark.long
def test_what_a_bucket_does_not_have_is_one_line(zoo: Path, bucket: Any) -> None:
    for url in ("s3://models/other", "s3://nothing/net"):
        describe(zoo, directory="net", url=url, sha256="0" * 64)
        assert "models.yml [net]: cannot be fetched: " in refused(zoo)
    assert [path.name for path in zoo.iterdir()] == ["models.yml"]


# --- a registry of containers


@needs("oras")
@pytest.mark.long
def test_an_artifact_comes_from_a_registry(
    zoo: Path, tree: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import oras.client

    work = tmp_path / "work"
    work.mkdir()
    with registry(work, free_port) as address:
        monkeypatch.chdir(tree)
        client = oras.client.OrasClient(insecure=True)
        client.push(target=f"{address}/team/net:1.0", files=[path.name for path in tree.iterdir()])
        client.push(target=f"{address}/team/one:1.0", files=["model.bin"])
        monkeypatch.chdir(tmp_path)
        describe(zoo, directory="net", oci=f"{address}/team/net:1.0")
        entry = pin_and_fetch(zoo, "net")
        assert entry["sha256"] == hashing.of_model(tree)
        assert entry["oci"].startswith(f"{address}/team/net@sha256:")
        for name, more in (("one", {"oci": f"{address}/team/one:1.0"}),
                           ("member", {"oci": f"{address}/team/net:1.0", "member": "model.bin"})):  # fmt: skip
            (zoo / "models.yml").write_text("")
            describe(zoo, file=name, **more)
            models.pin(zoo, name, print)
            assert (zoo / name).read_bytes() == FILES["model.bin"]
        describe(zoo, directory="net", oci=f"{address}/team/net@sha256:{'0' * 64}", sha256="0" * 64)
        assert "docker login" in refused(zoo)


@needs("oras")
@pytest.mark.long
def test_a_login_of_docker_opens_a_registry(
    zoo: Path, tree: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import oras.client

    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(tree)
    with registry(work, free_port) as address:
        oras.client.OrasClient(insecure=True).push(target=f"{address}/team/one:1.0", files=["model.bin"])
        describe(zoo, file="one", oci=f"{address}/team/one:1.0")
        models.pin(zoo, "one", print)
        (zoo / "one").unlink()
    with registry(work, free_port, LOGIN) as address:
        message = refused(zoo)
        assert "docker login" in message and "geheim" not in message
        (tmp_path / ".docker").mkdir()
        login = {"auths": {address: {"auth": base64.b64encode(b"me:geheim").decode()}}}
        (tmp_path / ".docker" / "config.json").write_text(json.dumps(login))
        assert models.fetch(zoo, print) == ["one"]


# --- MLflow


@needs("mlflow")
@pytest.mark.long
def test_a_version_of_a_registered_model_comes_from_mlflow(
    zoo: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    import mlflow

    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(tree), "net")
    client = mlflow.MlflowClient()
    client.create_registered_model("net")
    version = client.create_model_version("net", f"{run.info.artifact_uri}/net", run.info.run_id)
    client.set_registered_model_alias("net", "champion", version.version)
    describe(zoo, directory="net", mlflow="models:/net@champion")
    entry = pin_and_fetch(zoo, "net")
    assert entry["mlflow"] == f"models:/net/{version.version}"
    assert entry["sha256"] == hashing.of_model(tree)
    (zoo / "net").rename(tmp_path / "aside")
    describe(zoo, file="model.bin", mlflow=f"runs:/{run.info.run_id}/net", member="model.bin")
    assert pin_and_fetch(zoo, "model.bin")["sha256"] == hashing.of_file(tree / "model.bin")


# --- a full disk


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_is_one_line_and_keeps_what_is_there(zoo: Path, tree: Path, tmp_path: Path) -> None:
    (tree / "model.bin").write_bytes(bytes(8_000_000))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", zoo], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (zoo / "net").write_text("old")
        for kind, path in (("directory", tree), ("file", tree / "model.bin")):
            describe(zoo, **{kind: "net"}, path=str(path), sha256=hashing.of_model(path))
            assert "space" in refused(zoo)
            assert sorted(path.name for path in zoo.iterdir()) == ["models.yml", "net"]
            assert (zoo / "net").read_text() == "old"
    finally:
        subprocess.run(["umount", zoo], check=True)

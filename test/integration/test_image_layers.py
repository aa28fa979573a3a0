"""An image's way to the workers: laid out in the store as layers, fetched as the layers a host lacks.

Docker is a script here that keeps layers in a directory and knows the archives that ``docker save`` writes: the two of
its older image store, and those of the containerd image store, whose layers are compressed. The store is served by a
real daemon.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import ansible.module_utils
import pytest
from modelserve.store import rsync_server

if TYPE_CHECKING:
    from conftest import StoreServer

MODULES = Path(__file__).resolve().parents[2] / "plugins" / "modules"
IMAGE = "modelserve:1"
# As Ansible runs a module: what modules share is found beside Ansible's own.
RUN_MODULE = f"""
import runpy, sys
import ansible.module_utils
ansible.module_utils.__path__.append({str(MODULES.with_name("module_utils"))!r})
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

DOCKER = r"""#!{python}
import gzip, hashlib, io, json, os, sys, tarfile

state, layout = {state!r}, {layout!r}
containerd = layout in ("containerd", "zstd")
ZSTD = b"\x28\xb5\x2f\xfd"  # what follows is not compressed here, and looks so
blobs = os.path.join(state, "blobs")
with open(os.path.join(state, "images.json")) as stream:
    images = json.load(stream)  # tag -> hash of its configuration

def read(digest):
    with open(os.path.join(blobs, digest), "rb") as stream:
        return stream.read()

def layers(config):
    return [layer.split(":")[1] for layer in json.loads(read(config))["rootfs"]["diff_ids"]]

def keep(content):
    digest = hashlib.sha256(content).hexdigest()
    with open(os.path.join(blobs, digest), "wb") as stream:
        stream.write(content)
    return digest

def compress(content):
    return ZSTD + content if layout == "zstd" else gzip.compress(content, mtime=0)

def inflate(content):
    if content.startswith(ZSTD):
        return content[len(ZSTD):]
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content

def sha256(content):
    return hashlib.sha256(content).hexdigest()

def manifest_of(config):
    digests = [sha256(compress(read(layer))) for layer in layers(config)]
    return json.dumps({{"config": "sha256:" + config, "layers": digests}}).encode()

def number(config):
    return sha256(manifest_of(config)) if containerd else config

def find(name):
    found = [config for tag, config in images.items() if name in (tag, "sha256:" + number(config))]
    if not found:
        sys.exit("Error: No such image: " + name)
    return found[0]

def inspect(name):
    config = find(name)
    found = ["sha256:" + layer for layer in layers(config)]
    print(json.dumps([{{"Id": "sha256:" + number(config), "RootFS": {{"Type": "layers", "Layers": found}}}}]))

def save_compressed(name, config):
    files = {{"blobs/sha256/" + number(config): manifest_of(config), "blobs/sha256/" + config: read(config)}}
    blobs = [compress(read(layer)) for layer in layers(config)]
    names = ["blobs/sha256/" + sha256(blob) for blob in blobs]
    manifest = [{{"Config": "blobs/sha256/" + config, "RepoTags": [name], "Layers": names}}]
    files.update(zip(names, blobs))
    files["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    sys.stdout.buffer.write(bytes(1 << 20))  # archives end with any number of empty blocks

def save(name):
    config = find(name)
    if containerd:
        return save_compressed(name, config)
    if layout == "old":
        files = {{layer[::-1] + "/layer.tar": layer for layer in layers(config)}}
        files[config + ".json"] = config
        extra = {{layer[::-1] + "/VERSION": b"1.0" for layer in layers(config)}}
    else:
        files = {{"blobs/sha256/" + digest: digest for digest in [config, *layers(config)]}}
        extra = {{"blobs/sha256/" + "0" * 64: b"a manifest", "oci-layout": b"{{}}"}}
    contents = {{**extra, **{{file: read(digest) for file, digest in files.items()}}}}
    names = [file for file, digest in files.items() if digest != config]
    (config_name,) = [file for file, digest in files.items() if digest == config]
    manifest = [{{"Config": config_name, "RepoTags": [name], "Layers": names}}]
    contents["manifest.json"] = json.dumps(manifest).encode()
    if layout == "silent":
        sys.exit("Error: the daemon went away")
    stream = io.BytesIO() if layout == "cut off" else sys.stdout.buffer
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for file, content in contents.items():
            member = tarfile.TarInfo(file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if layout == "cut off":
        sys.stdout.buffer.write(stream.getvalue()[:3000])
        sys.exit("Error: the daemon went away")

def load():
    archive = {{}}
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as stream:
        for member in stream:
            archive[member.name] = stream.extractfile(member).read()
    (manifest,) = json.loads(archive["manifest.json"])
    config = json.loads(archive[manifest["Config"]])
    wanted = [layer.split(":")[1] for layer in config["rootfs"]["diff_ids"]]
    if len(wanted) != len(manifest["Layers"]):
        sys.exit("invalid manifest, layers length mismatch")
    known = [] if containerd else [layers(image) for image in images.values()]
    for place, (layer, file) in enumerate(zip(wanted, manifest["Layers"])):
        # A layer is known by all that is below it, too.
        if any(there[: place + 1] == wanted[: place + 1] for there in known):
            continue
        if file not in archive and containerd:
            sys.exit("layer " + file + ": not found")
        if file not in archive:
            sys.exit("open /var/lib/docker/tmp/docker-import-1/" + file + ": no such file or directory")
        if keep(inflate(archive[file])) != layer:
            sys.exit("invalid diffID for layer " + str(place))
    images[manifest["RepoTags"][0]] = keep(archive[manifest["Config"]])
    with open(os.path.join(state, "images.json"), "w") as stream:
        json.dump(images, stream)
    with open(os.path.join(state, "loaded"), "a") as stream:
        print(json.dumps(sorted(archive)), file=stream)
    print("Loaded image: " + manifest["RepoTags"][0])

match sys.argv[1:]:
    case ["image", "inspect", name]:
        inspect(name)
    case ["images", "--quiet", "--no-trunc", "--filter", "label=modelserve.part"]:
        print("\n".join("sha256:" + number(config) for config in images.values()))
    case ["info", "--format", "{{{{json .DriverStatus}}}}"]:
        status = [["driver-type", "io.containerd.snapshotter.v1"]] if containerd else [["Supports d_type", "true"]]
        print(json.dumps(status))
    case ["save", name]:
        save(name)
    case ["load", "--quiet"]:
        load()
    case other:
        sys.exit("unknown command: " + str(other))
"""


@dataclass(frozen=True)
class Host:
    """A host with Docker and what it has loaded."""

    root: Path

    @classmethod
    def make(cls, root: Path, layout: str = "new") -> Host:
        (root / "docker" / "blobs").mkdir(parents=True)
        (root / "docker" / "images.json").write_text("{}")
        (root / "bin").mkdir()
        host = cls(root)
        host.lay_out_as(layout)
        return host

    def lay_out_as(self, layout: str) -> None:
        script = self.root / "bin" / "docker"
        script.write_text(DOCKER.format(python=sys.executable, state=str(self.root / "docker"), layout=layout))
        script.chmod(0o755)

    def edit(self, old: str, new: str) -> None:
        """Change a line of Docker's script."""
        script = self.root / "bin" / "docker"
        text = script.read_text()
        assert old in text
        script.write_text(text.replace(old, new))

    def add(self, name: str, *layers: bytes) -> None:
        """Have an image of these layers."""
        digests = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
        config = json.dumps({"rootfs": {"type": "layers", "diff_ids": digests}, "built": name}).encode()
        for content in (*layers, config):
            (self.root / "docker" / "blobs" / hashlib.sha256(content).hexdigest()).write_bytes(content)
        images = {**self.images(), name: hashlib.sha256(config).hexdigest()}
        (self.root / "docker" / "images.json").write_text(json.dumps(images))

    def images(self) -> dict[str, str]:
        """What is loaded: the configurations' hashes by name."""
        found: dict[str, str] = json.loads((self.root / "docker" / "images.json").read_text())
        return found

    def layers_of_last_load(self) -> int:
        loads = (self.root / "docker" / "loaded").read_text().splitlines()
        return sum(name.endswith("layer.tar") for name in json.loads(loads[-1]))

    def run(self, module: str, **arguments: Any) -> dict[str, Any]:
        """Run a module as Ansible does; returns its answer."""
        file = self.root / "arguments.json"
        file.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        command = [sys.executable, "-c", RUN_MODULE, str(MODULES / f"{module}.py"), str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert (done.returncode != 0) is answer.get("failed", False)
        return answer


BASE, PYTHON, CODE, NEW_CODE = b"base" * 1000, b"python" * 500, b"code" * 100, b"new code" * 100


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def head(tmp_path: Path) -> Host:
    """A host that has built the image."""
    host = Host.make(tmp_path / "builder")
    host.add(IMAGE, BASE, PYTHON, CODE)
    return host


@pytest.fixture
def store(store_server_of_head: StoreServer) -> Path:
    """Where the image is put, and served from."""
    return store_server_of_head.store / "image"


def export(head: Host, store: Path, image: str = IMAGE, **more: Any) -> dict[str, Any]:
    return head.run("modelserve_image_export", image=image, store=str(store), **more)


def test_an_image_is_laid_out_by_its_content(head: Host, tmp_path: Path) -> None:
    for layout in ("old", "new", "containerd"):
        store = tmp_path / layout
        head.lay_out_as(layout)
        answer = export(head, store)
        config = head.images()[IMAGE]
        layers = {path.name: path.read_bytes() for path in (store / "layers").iterdir()}
        assert all(sha256(content) == name for name, content in layers.items())
        assert set(layers) == {config, *map(sha256, (BASE, PYTHON, CODE))}
        index = json.loads((store / "index.json").read_text())
        assert (index.pop("id") == config) is (layout != "containerd")
        assert index == {
            "image": IMAGE,
            "config": config,
            "layers": [*map(sha256, (BASE, PYTHON, CODE))],
            "archive": "",
        }
        assert answer["changed"]
        assert answer["written"] == sum(map(len, layers.values()))
        before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
        assert not export(head, store)["changed"]
        assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_only_layers_that_are_missing_are_written_and_old_ones_go(head: Host, tmp_path: Path) -> None:
    store = tmp_path / "image"
    export(head, store)
    old_config = head.images()[IMAGE]
    kept = {name: (store / "layers" / name).stat().st_ino for name in map(sha256, (BASE, PYTHON))}
    head.add("modelserve:2", BASE, PYTHON, NEW_CODE)
    dry = export(head, store, "modelserve:2", _ansible_check_mode=True)
    assert dry["changed"]
    assert (store / "layers" / old_config).exists()
    (store / "layers" / ".part").write_text("of an export that was cut off")
    answer = export(head, store, "modelserve:2")
    config = head.images()["modelserve:2"]
    assert answer["written"] == len(NEW_CODE) + (store / "layers" / config).stat().st_size
    assert {path.name for path in (store / "layers").iterdir()} == {config, sha256(NEW_CODE), *kept}
    assert {name: (store / "layers" / name).stat().st_ino for name in kept} == kept


def test_an_image_that_is_not_there_is_named(head: Host, tmp_path: Path) -> None:
    assert "the image modelserve:9 is not there" in export(head, tmp_path / "image", "modelserve:9")["msg"]


@pytest.mark.parametrize("how", ["silent", "cut off"])
def test_what_docker_says_against_it_is_said(head: Host, tmp_path: Path, how: str) -> None:
    store = tmp_path / "image"
    head.lay_out_as(how)
    answer = export(head, store)
    assert answer["msg"].endswith("docker save failed: Error: the daemon went away")
    assert not (store / "index.json").exists()
    head.lay_out_as("new")
    assert export(head, store)["changed"]
    assert len(list((store / "layers").iterdir())) == 4


@pytest.fixture
def load(store_server_of_head: StoreServer, store: Path, head: Host) -> Any:
    """Load the image on a host, from a store that has it as an export leaves it."""
    config = head.images()[IMAGE]
    (store / "layers").mkdir(parents=True)
    for name in [config, *map(sha256, (BASE, PYTHON, CODE))]:
        (store / "layers" / name).write_bytes((head.root / "docker" / "blobs" / name).read_bytes())
    index = {"image": IMAGE, "config": config, "layers": [*map(sha256, (BASE, PYTHON, CODE))]}
    (store / "index.json").write_text(json.dumps(index))

    def run(host: Host, image: str = IMAGE, **more: Any) -> dict[str, Any]:
        password = store_server_of_head.home / "secrets" / "ray_token"
        where = {"url": f"{store_server_of_head.url}/image", "password_file": str(password)}
        return host.run("modelserve_image_load", image=image, work=str(host.root / "work"), **where, **more)

    return run


def test_a_host_without_any_gets_all_layers(head: Host, store: Path, load: Any, tmp_path: Path) -> None:
    shutil.rmtree(store)
    export(head, store)
    worker = Host.make(tmp_path / "worker")
    assert load(worker, _ansible_check_mode=True)["changed"]
    assert worker.images() == {}
    answer = load(worker)
    assert answer["changed"]
    assert answer["fetched"] == len(BASE + PYTHON + CODE)
    assert worker.images() == head.images()
    assert not (worker.root / "work").exists()
    again = load(worker)
    assert (again["changed"], again["fetched"]) == (False, 0)


def test_a_layer_of_debian_packages_is_all_that_a_host_fetches(
    head: Host, store: Path, load: Any, tmp_path: Path
) -> None:
    worker = Host.make(tmp_path / "worker")
    load(worker)
    packages = b"libgl1" * 100
    head.add(f"{IMAGE}-packages", BASE, PYTHON, CODE, packages)
    assert export(head, store, f"{IMAGE}-packages")["changed"]
    answer = load(worker, f"{IMAGE}-packages")
    assert (answer["fetched"], worker.layers_of_last_load()) == (len(packages), 1)
    assert worker.images() == head.images()


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        ((BASE, PYTHON, b"old code"), CODE),
        # The same files on another base are another layer to Docker.
        ((b"another base", PYTHON, CODE), BASE + PYTHON + CODE),
    ],
)
def test_a_host_with_some_gets_the_others(
    head: Host, load: Any, tmp_path: Path, there: tuple[bytes, ...], fetched: bytes
) -> None:
    worker = Host.make(tmp_path / "worker")
    worker.add("modelserve:0", *there)
    worker.add("modelserve:base", there[0])
    answer = load(worker)
    assert answer["fetched"] == len(fetched)
    assert worker.images()[IMAGE] == head.images()[IMAGE]


def import_module(name: str) -> ModuleType:
    """Import a module of Ansible's, as it finds what modules share."""
    if str(MODULES.with_name("module_utils")) not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(str(MODULES.with_name("module_utils")))
    spec = importlib.util.spec_from_file_location(name, MODULES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_hosts_beyond_those_that_the_store_serves_wait_for_it(
    load: Any, store_server_of_head: StoreServer, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 hosts get layers at the same time; the modules' processes would take longer than what is shown."""
    monkeypatch.setattr(rsync_server, "MAX_CONNECTIONS", 3)
    store_server_of_head.stop()
    store_server_of_head.start()
    big = os.urandom(4 << 20)
    (store / "layers" / sha256(big)).write_bytes(big)
    module = import_module("modelserve_image_load")
    module.RETRY_S = (0.05, 0.3)

    def pull(number: int) -> int:
        directory = tmp_path / f"worker_{number}"
        directory.mkdir()
        host = module.Store(f"{store_server_of_head.url}/image", "0123abcd", directory, 600)
        host.fetch_layers([sha256(big), *map(sha256, (BASE, PYTHON, CODE))])
        assert host.fetched == len(big + BASE + PYTHON + CODE)
        return int(host.retries)

    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=24) as pool:
        retries = list(pool.map(pull, range(24)))
    print(f"\n24 hosts, 3 at a time: {time.monotonic() - started:.1f} s, {sum(retries)} retries")
    assert sum(retries) == store_server_of_head.log.read_text().count("max connections") > 24


def test_a_host_does_not_wait_for_ever(
    load: Any, store_server_of_head: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rsync_server, "MAX_CONNECTIONS", -1)  # rsync's word for none
    store_server_of_head.stop()
    store_server_of_head.start()
    worker = Host.make(tmp_path / "worker")
    assert "the store served other hosts for 0 s; raise modelserve_fetch_timeout" in load(worker, timeout=0)["msg"]


def test_a_layer_that_was_begun_is_gone_on_with(head: Host, load: Any, tmp_path: Path) -> None:
    worker = Host.make(tmp_path / "worker")
    begun = worker.root / "work" / "layers" / sha256(BASE)
    begun.parent.mkdir(parents=True)
    begun.write_bytes(BASE[:1500])
    assert load(worker)["changed"]
    assert worker.images() == head.images()


def test_a_damaged_layer_is_refused(head: Host, load: Any, store: Path, tmp_path: Path) -> None:
    worker = Host.make(tmp_path / "worker")
    layer = store / "layers" / sha256(PYTHON)
    layer.write_bytes(b"damage" * 500)
    answer = load(worker)
    assert f"the layer {layer.name[:12]} came damaged" in answer["msg"]
    assert worker.images() == {}
    assert not (worker.root / "work" / "layers" / layer.name).exists()


def test_another_image_than_the_heads_is_refused(load: Any, tmp_path: Path) -> None:
    worker = Host.make(tmp_path / "worker")
    assert "the store has modelserve:1" in load(worker, "modelserve:2")["msg"]
    assert worker.images() == {}


def test_what_docker_refuses_is_said(load: Any, tmp_path: Path) -> None:
    worker = Host.make(tmp_path / "worker")
    worker.add("modelserve:0", BASE, PYTHON)
    worker.edit("if len(wanted)", 'sys.exit("no space left on device")\n    if len(wanted)')
    answer = load(worker)
    assert answer["msg"].endswith("docker load failed: no space left on device")
    assert "\n" not in answer["msg"]


def test_a_host_that_has_lost_layers_gets_all(head: Host, load: Any, tmp_path: Path) -> None:
    worker = Host.make(tmp_path / "worker")
    worker.add("modelserve:0", BASE, PYTHON, b"old code")
    # It shows an image whose layers it has lost.
    worker.edit("[layers(image) for image in images.values()]", "[]")
    worker.edit('    case ["save", name]:\n        save(name)', '    case ["save", name]:\n        sys.exit("lost")')
    answer = load(worker)
    assert worker.images()[IMAGE] == head.images()[IMAGE]
    assert answer["fetched"] == len(BASE + PYTHON + CODE)
    assert "docker load failed: open /var/lib/docker/tmp" in json.dumps(answer["warnings"])


LONG = pytest.mark.long


@pytest.mark.parametrize("on_worker", ["new", pytest.param("containerd", marks=LONG)])
@pytest.mark.parametrize("on_head", [pytest.param("new", marks=LONG), "containerd", pytest.param("zstd", marks=LONG)])
def test_hosts_with_either_image_store_serve_each_other(
    head: Host, store: Path, load: Any, tmp_path: Path, on_head: str, on_worker: str
) -> None:
    shutil.rmtree(store)
    head.lay_out_as(on_head)
    export(head, store)
    fresh, earlier = Host.make(tmp_path / "fresh", on_worker), Host.make(tmp_path / "earlier", on_worker)
    earlier.add("modelserve:0", BASE, PYTHON, b"old code")
    for worker in (fresh, earlier):
        answer = load(worker)
        assert worker.images()[IMAGE] == head.images()[IMAGE]
        archived = worker.layers_of_last_load()
        if on_head == "zstd":  # its layers cannot be told apart: the archive travels as it is
            assert answer["fetched"] > len(BASE + PYTHON + CODE)
            continue
        assert answer["fetched"] == len(CODE if worker is earlier else BASE + PYTHON + CODE)
        # The containerd image store refuses an archive without the layers that it has.
        assert archived == (1 if worker is earlier and on_worker == "new" else 3)


def test_a_whole_archive_is_written_once(head: Host, tmp_path: Path) -> None:
    store = tmp_path / "image"
    head.lay_out_as("zstd")
    assert export(head, store)["changed"]
    (archive,) = (store / "layers").iterdir()
    assert sha256(archive.read_bytes()) == archive.name
    assert not export(head, store)["changed"]
    head.lay_out_as("containerd")  # other compression, another id
    assert export(head, store)["changed"]
    assert len(list((store / "layers").iterdir())) == 4


def test_a_host_whose_image_store_is_not_known_gets_all_layers(load: Any, tmp_path: Path) -> None:
    worker = Host.make(tmp_path / "worker")
    worker.add("modelserve:0", BASE, PYTHON, b"old code")
    worker.edit("print(json.dumps(status))", 'sys.exit("permission denied")')
    assert load(worker)["fetched"] == len(CODE)
    assert worker.layers_of_last_load() == 3


def test_a_head_is_asked_for_its_token_and_image(head: Host, tmp_path: Path) -> None:
    home = tmp_path / "home"
    empty = head.run("modelserve_cluster_facts", home=str(home))
    assert (empty["changed"], empty["token"], empty["image"]) == (False, "", "")
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "ray_token").write_text("0123\n")
    (home / "store").mkdir()
    (home / "store" / "manifest.json").write_text(json.dumps({"versions": {"image": IMAGE}}))
    answer = head.run("modelserve_cluster_facts", home=str(home))
    assert (answer["changed"], answer["token"], answer["image"]) == (False, "0123", IMAGE)

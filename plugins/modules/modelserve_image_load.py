#!/usr/bin/python
"""Gets an image from the head's store: only the layers this host's Docker does not have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_image_load
short_description: Load an image from the head's store
description:
  - Fetches the layers that are missing by rsync, goes on with those begun earlier, and compares each with its hash.
    Docker gets an archive that names all layers and holds the missing ones; it takes the others from what it has.
  - Docker's containerd image store needs archives with all layers. There, those of an earlier image are taken from it.
  - A store that serves as many hosts as it may is asked again, at random intervals.
options:
  image:
    description: The image's name and tag; the store must have that one.
    type: str
    required: true
  url:
    description: The store's rsync URL, up to and with C(image).
    type: str
    required: true
  password_file:
    description: A file that holds the store's password.
    type: path
    required: true
  work:
    description: A directory for what is fetched; removed when all is loaded.
    type: path
    required: true
  timeout:
    description: Seconds that a host waits for its turn at the store.
    type: int
    default: 7200
author: modelserve
"""

EXAMPLES = r"""
- name: Load the image
  modelserve_image_load:
    image: modelserve:1234
    url: rsync://modelserve@10.0.0.1:6390/store/image
    password_file: /opt/modelserve/secrets/ray_token
    work: /opt/modelserve/image
"""

RETURN = r"""
fetched:
  description: Bytes of the layers that were fetched.
  returned: always
  type: int
retries:
  description: How often the store was asked again, since it served other hosts or did not answer.
  returned: always
  type: int
"""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:  # in a collection, Ansible finds a module's helpers by their full names alone
    from ansible_collections.modelserve.modelserve.plugins.module_utils import modelserve_image as archives
except ImportError:
    from ansible.module_utils import modelserve_image as archives

CHUNK = 1 << 20
BROKE_OFF = (10, 12, 30, 35)  # rsync's exit codes for the network; see rsync(1)
OUTAGE_S = 60  # a fetch that breaks off is tried again for so long after it last went on; it goes on where it was
RETRY_S = (0.5, 3.0)  # not all hosts in the same moment


class Store:
    """The head's store.

    Args:
        url: its rsync URL.
        password: the cluster's token.
        directory: gets the fetched layers.
        timeout_s: seconds to wait for a turn.

    Attributes:
        retries: how often a fetch was tried again.
        fetched: bytes of the layers that were fetched.
    """

    def __init__(self, url: str, password: str, directory: Path, timeout_s: float) -> None:
        self.retries = 0
        self.fetched = 0
        self.directory = directory
        self._url = url
        # An empty RSYNC_PROXY is none: the host's own may be for the outside, and the store is in the cluster.
        self._environment = dict(os.environ, RSYNC_PASSWORD=password, RSYNC_PROXY="")
        self._timeout_s = timeout_s

    def fetch(self, name: str, target: Path) -> None:
        """Fetch a file.

        Raises:
            RuntimeError: it is not available.
        """
        command = ["rsync", "--times", "--partial", "--inplace", "--timeout=60", "--contimeout=10"]
        command += [self._url + "/" + name, str(target)]
        busy_since = silent_since = time.monotonic()
        size = -1
        while True:
            result = subprocess.run(command, capture_output=True, text=True, env=self._environment, check=False)
            if result.returncode == 0:
                return
            now = time.monotonic()
            present = target.stat().st_size if target.exists() else 0
            busy = "max connections" in result.stderr
            if present > size:
                size, busy_since = present, now
                silent_since = now
            if busy:  # it answers: an outage after a long wait has its whole time
                silent_since = now
            elif result.returncode not in BROKE_OFF:
                break
            if now - busy_since > self._timeout_s if busy else now - silent_since > OUTAGE_S:
                break
            self.retries += 1
            time.sleep(random.uniform(*RETRY_S))
        if busy:
            raise RuntimeError(f"the store served other hosts for {self._timeout_s} s; raise modelserve_fetch_timeout")
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()] or ["rsync failed"]
        raise RuntimeError(next((line for line in lines if "No space left" in line), lines[0]))

    def fetch_layers(self, names: Sequence[str]) -> None:
        """Fetch layers and count their bytes.

        Raises:
            RuntimeError: one is not available or damaged.
        """
        for name in names:
            self.fetch_verified(name)
            self.fetched += (self.directory / name).stat().st_size

    def fetch_verified(self, name: str) -> None:
        """Fetch a file that is named by its hash.

        Raises:
            RuntimeError: it is not available or damaged.
        """
        target = self.directory / name
        self.fetch("layers/" + name, target)
        if sha256(target) != name:
            target.unlink()
            raise RuntimeError(f"the layer {name[:12]} came damaged; run this again")


def sha256(path: Path) -> str:
    """Return a file's hash."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def nearest_image(module: AnsibleModule, layers: Sequence[str]) -> tuple[str, int]:
    """Return the image of this host that shares most layers, from the first on, and how many; empty when none does."""
    _, out, _ = module.run_command(["docker", "images", "--quiet", "--no-trunc", "--filter", "label=modelserve.part"])
    nearest, most = "", 0
    for image in sorted(set(out.split())):
        code, text, _ = module.run_command(["docker", "image", "inspect", image])
        if code != 0:
            continue
        present = [layer.split(":")[1] for layer in json.loads(text)[0]["RootFS"]["Layers"]]
        same = 0
        while same < min(len(present), len(layers)) and present[same] == layers[same]:
            same += 1
        if same > most:
            nearest, most = image, same
    return nearest, most


def load(index: dict[str, Any], directory: Path, layers: Sequence[str]) -> None:
    """Load an image into Docker from an archive like that of ``docker save``.

    Args:
        index: what the store says of the image.
        directory: has the configuration and the layers.
        layers: those that the archive holds. It names all.

    Raises:
        RuntimeError: Docker refuses it.
    """
    loader = start_loading()
    assert loader.stdin is not None
    manifest = {
        "Config": index["config"] + ".json",
        "RepoTags": [index["image"]],
        "Layers": [layer + "/layer.tar" for layer in index["layers"]],
    }
    try:
        with tarfile.open(fileobj=loader.stdin, mode="w|") as archive:
            content = json.dumps([manifest]).encode()
            member = tarfile.TarInfo("manifest.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            archive.add(str(directory / index["config"]), index["config"] + ".json")
            for layer in layers:
                archive.add(str(directory / layer), layer + "/layer.tar")
    except BrokenPipeError:
        pass  # Docker has ended; its message has the cause
    end_loading(loader)


def load_whole(archive: Path) -> None:
    """Load an archive of ``docker save`` into Docker.

    Raises:
        RuntimeError: Docker refuses it.
    """
    loader = start_loading()
    assert loader.stdin is not None
    try:
        with archive.open("rb") as stream:
            shutil.copyfileobj(stream, loader.stdin, CHUNK)
    except BrokenPipeError:
        pass  # Docker has ended; its message has the cause
    end_loading(loader)


def start_loading() -> subprocess.Popen[bytes]:
    """Start ``docker load``."""
    return subprocess.Popen(
        ["docker", "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def end_loading(loader: subprocess.Popen[bytes]) -> None:
    """Wait for ``docker load``.

    Raises:
        RuntimeError: it failed.
    """
    out, _ = loader.communicate()
    if loader.returncode != 0:
        raise RuntimeError(f"docker load failed: {out.decode(errors='replace').strip()}")


def read_index(store: Store, target: Path, image: str) -> dict[str, Any]:
    """Fetch what the store says of its image.

    Raises:
        RuntimeError: it is not available, or of another image.
    """
    store.fetch("index.json", target)
    index: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    if index["image"] != image:
        raise RuntimeError(f"the store has {index['image']}; run site.yml without --limit")
    return index


def require_image(module: AnsibleModule, image: str) -> None:
    """Return when Docker has the image.

    Raises:
        RuntimeError: it has not.
    """
    code, _, _ = module.run_command(["docker", "image", "inspect", image])
    if code != 0:
        raise RuntimeError(f"docker load succeeded, but 'docker image inspect {image}' fails")


def bring(module: AnsibleModule, store: Store, index: dict[str, Any]) -> None:
    """Load the store's image into Docker, and fetch what that needs.

    Raises:
        RuntimeError: a file is not available, or Docker refuses the image.
    """
    if index.get("archive"):
        store.fetch_layers([index["archive"]])
        load_whole(store.directory / index["archive"])
        return
    layers = index["layers"]
    nearest, shared = nearest_image(module, layers)
    _, status, _ = module.run_command(archives.DRIVER_STATUS)
    store.fetch_verified(index["config"])
    if archives.takes_partial_archives(status):
        store.fetch_layers(layers[shared:])
        try:
            load(index, store.directory, layers[shared:])
            return
        except RuntimeError as error:
            if shared == 0:
                raise
            module.warn(f"{error}. All layers are loaded instead")
    if shared > 0:
        try:
            archives.save(nearest, layers[:shared], store.directory)
        except RuntimeError as error:
            module.warn(f"{error}. All layers are fetched instead")
    store.fetch_layers([layer for layer in layers if not is_complete(store.directory, layer)])
    load(index, store.directory, layers)


def is_complete(directory: Path, layer: str) -> bool:
    """Return whether a layer is there; one that was begun is not."""
    return (directory / layer).exists() and sha256(directory / layer) == layer


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "password_file": {"type": "path", "required": True, "no_log": False},
            "work": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 7200},
        },
        supports_check_mode=True,
    )
    image, work = module.params["image"], Path(module.params["work"])
    if module.check_mode and module.get_bin_path("docker") is None:  # a dry run on a fresh host: not installed yet
        module.exit_json(changed=True, fetched=0, retries=0)
    code, _, _ = module.run_command(["docker", "image", "inspect", image])
    if code == 0:
        module.exit_json(changed=False, fetched=0, retries=0)
    if module.check_mode:
        module.exit_json(changed=True, fetched=0, retries=0)
    try:
        password = Path(module.params["password_file"]).read_text(encoding="utf-8").strip()
        store = Store(module.params["url"], password, work / "layers", module.params["timeout"])
        store.directory.mkdir(parents=True, exist_ok=True)
        bring(module, store, read_index(store, work / "index.json", image))
        require_image(module, image)
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: the index is damaged
        module.fail_json(msg=f"the image {image} is not available from the head's store: {error}")
    shutil.rmtree(work)
    module.exit_json(changed=True, fetched=store.fetched, retries=store.retries)


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Gets an image from the head's store: only the layers this host's Docker does not have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_image_load
short_description: Load an image from the head's store
description:
  - Fetches the layers that are missing by rsync, goes on with those begun earlier, and compares each with its hash.
    Docker gets an archive that names all layers and holds the missing ones; it takes the others from what it has.
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
from typing import Any

from ansible.module_utils.basic import AnsibleModule

CHUNK = 1 << 20
BROKE_OFF = (10, 12, 30, 35)  # rsync's exit codes for the network; see rsync(1)
OUTAGE_S = 60  # a fetch that breaks off is tried again for so long after it last went on; it goes on where it was
BUSY_S = 1800  # a store that serves as many hosts as it may is asked again for so long
RETRY_S = (0.5, 3.0)  # not all hosts in the same moment


def fetch(module: AnsibleModule, name: str, target: str) -> None:
    """Bring a file of the store.

    Raises:
        RuntimeError: it is not available, or was damaged on the way.
    """
    with open(module.params["password_file"], encoding="utf-8") as stream:
        environment = dict(os.environ, RSYNC_PASSWORD=stream.read().strip())
    command = ["rsync", "--times", "--partial", "--inplace", "--timeout=60", "--contimeout=10"]
    command += [module.params["url"] + "/" + name, target]
    started = waiting = time.monotonic()
    size = -1
    while True:
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode == 0:
            return
        now = time.monotonic()
        fetched = os.path.getsize(target) if os.path.exists(target) else 0
        if fetched > size:
            size, waiting = fetched, now
        busy = "max connections" in result.stderr
        if not busy and result.returncode not in BROKE_OFF:
            break
        if now - started > BUSY_S if busy else now - waiting > OUTAGE_S:
            break
        time.sleep(random.uniform(*RETRY_S))
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()] or ["rsync failed"]
    raise RuntimeError(next((line for line in lines if "No space left" in line), lines[0]))


def sha256(path: str) -> str:
    """A file's hash."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def layers_here(module: AnsibleModule, wanted: list[str]) -> int:
    """How many of the wanted layers, from the first on, an image of this host has in the same order."""
    _, out, _ = module.run_command(["docker", "images", "--quiet", "--no-trunc", "--filter", "label=modelserve.part"])
    best = 0
    for image in set(out.split()):
        code, text, _ = module.run_command(["docker", "image", "inspect", image])
        if code == 0:
            there = [layer.split(":")[1] for layer in json.loads(text)[0]["RootFS"]["Layers"]]
            same = 0
            while same < min(len(there), len(wanted)) and there[same] == wanted[same]:
                same += 1
            best = max(best, same)
    return best


def load(index: dict[str, Any], directory: str, missing: list[str]) -> None:
    """Give Docker the image, as ``docker save`` would, without the layers it has.

    Raises:
        RuntimeError: Docker refuses it.
    """
    loader = subprocess.Popen(
        ["docker", "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert loader.stdin is not None
    assert loader.stdout is not None
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
            archive.add(os.path.join(directory, index["config"]), index["config"] + ".json")
            for layer in missing:
                archive.add(os.path.join(directory, layer), layer + "/layer.tar")
        loader.stdin.close()
    except BrokenPipeError:
        pass  # Docker has ended: it says why
    text = loader.stdout.read().decode(errors="replace").strip()
    if loader.wait() != 0:
        raise RuntimeError("docker load failed: {0}".format(text))


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "password_file": {"type": "path", "required": True, "no_log": False},
            "work": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    image, work = module.params["image"], module.params["work"]
    if module.check_mode and module.get_bin_path("docker") is None:  # a dry run on a fresh host: not installed yet
        module.exit_json(changed=True, fetched=0)
    code, _, _ = module.run_command(["docker", "image", "inspect", image])
    if code == 0:
        module.exit_json(changed=False, fetched=0)
    if module.check_mode:
        module.exit_json(changed=True, fetched=0)
    directory = os.path.join(work, "layers")
    try:
        os.makedirs(directory, exist_ok=True)
        fetch(module, "index.json", os.path.join(work, "index.json"))
        with open(os.path.join(work, "index.json"), encoding="utf-8") as stream:
            index = json.load(stream)
        if index["image"] != image:
            raise RuntimeError("the store has {0}; run site.yml without --limit".format(index["image"]))
        missing = index["layers"][layers_here(module, index["layers"]) :]
        for name in [index["config"]] + missing:
            fetch(module, "layers/" + name, os.path.join(directory, name))
            if sha256(os.path.join(directory, name)) != name:
                os.unlink(os.path.join(directory, name))
                raise RuntimeError("the layer {0} came damaged; run this again".format(name[:12]))
        fetched = sum(os.path.getsize(os.path.join(directory, layer)) for layer in missing)
        load(index, directory, missing)
    except (OSError, RuntimeError) as error:
        module.fail_json(msg="the image {0} is not available from the head's store: {1}".format(image, error))
    shutil.rmtree(work)
    module.exit_json(changed=True, fetched=fetched)


if __name__ == "__main__":
    main()

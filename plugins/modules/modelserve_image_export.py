#!/usr/bin/python
"""Export an image to the store, one file per layer, named by its hash."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_image_export
short_description: Lay a Docker image out as files
description:
  - Writes C(<store>/layers/<sha256>) for each layer and for the image's configuration, and C(<store>/index.json), which
    names them in order. Existing layers are not written again; those of other images are removed.
options:
  image:
    description: The image's name and tag.
    type: str
    required: true
  store:
    description: The directory.
    type: path
    required: true
author: modelserve
"""

EXAMPLES = r"""
- name: Export the image to the store
  modelserve_image_export:
    image: modelserve:1234
    store: /opt/modelserve/store/image
"""

RETURN = r"""
written:
  description: Bytes of the layers that were new.
  returned: always
  type: int
"""

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Collection
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

CHUNK = 1 << 20


def inspect(module: AnsibleModule, image: str) -> tuple[str, list[str]]:
    """Return the image's id and its layers' hashes, as hex digits, base first."""
    code, out, err = module.run_command(["docker", "image", "inspect", image])
    if code != 0:
        module.fail_json(msg=f"the image {image} is not there: {err.strip()}")
    description = json.loads(out)[0]
    layers = [layer.split(":")[1] for layer in description["RootFS"]["Layers"]]
    return description["Id"].split(":")[1], layers


def export(image: str, names: Collection[str], directory: Path) -> int:
    """Write the missing files of ``names`` from ``docker save``.

    Args:
        image: the image's name and tag.
        names: hashes of the layers and of the configuration.
        directory: of the store's layers.

    Returns:
        The bytes written.

    Raises:
        RuntimeError: ``docker save`` fails.
    """
    saver = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert saver.stdout is not None
    assert saver.stderr is not None
    written, damage = 0, ""
    try:
        with tarfile.open(fileobj=saver.stdout, mode="r|") as archive:
            written = unpack(archive, names, directory)
    except tarfile.TarError as error:  # mostly because Docker has ended; its own message comes first
        damage = str(error)
    saver.stdout.close()
    message = saver.stderr.read().decode(errors="replace").strip()
    if saver.wait() != 0 or damage:
        raise RuntimeError(f"docker save failed: {message or damage}")
    return written


def unpack(archive: tarfile.TarFile, names: Collection[str], directory: Path) -> int:
    """Write the missing files of ``names`` and return the bytes written.

    The hash identifies a file of the archive: a layer's name in it differs between Docker's versions.
    """
    written = 0
    for member in archive:
        source = archive.extractfile(member) if member.isfile() else None
        if source is None:
            continue
        part = directory / ".part"
        digest = hashlib.sha256()
        with part.open("wb") as target:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                target.write(chunk)
        name = digest.hexdigest()
        if name in names and not os.path.exists(directory / name):
            part.rename(directory / name)
            written += member.size
        else:
            part.unlink()
    return written


def files(directory: Path) -> set[str]:
    """Return the names in a directory."""
    return {path.name for path in directory.iterdir()}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"image": {"type": "str", "required": True}, "store": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    image, store = module.params["image"], Path(module.params["store"])
    number, layers = inspect(module, image)
    index = {"image": image, "config": number, "layers": layers}
    index_file = store / "index.json"
    directory = store / "layers"
    names = {number, *layers}
    present = files(directory) if os.path.isdir(directory) else set()
    if os.path.exists(index_file) and names <= present and json.loads(index_file.read_text(encoding="utf-8")) == index:
        module.exit_json(changed=False, written=0)
    if module.check_mode:
        module.exit_json(changed=True, written=0)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        written = export(image, names, directory) if not names <= present else 0
    except (OSError, RuntimeError) as error:
        module.fail_json(msg=f"the image cannot be exported to {store}: {error}")
    missing = names - files(directory)
    if missing:
        module.fail_json(msg=f"docker save returned no layer {min(missing)} of {image}")
    part = store / "index.json.part"
    part.write_text(json.dumps(index), encoding="utf-8")
    part.rename(index_file)
    for name in files(directory) - names:
        (directory / name).unlink()
    module.exit_json(changed=True, written=written)


if __name__ == "__main__":
    main()

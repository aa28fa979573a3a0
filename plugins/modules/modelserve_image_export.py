#!/usr/bin/python
"""Export an image to the store, one file per layer, named by its hash."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_image_export
short_description: Lay a Docker image out as files
description:
  - Writes C(<store>/layers/<sha256>) for each layer and for the image's configuration, and C(<store>/index.json), which
    names them in order. Existing layers are not written again; those of other images are removed.
  - Both of Docker's image stores give the same files. Where an archive's layers cannot be told apart, the whole archive
    is one file, and C(index.json) names that.
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

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:  # in a collection, Ansible finds a module's helpers by their full names alone
    from ansible_collections.modelserve.modelserve.plugins.module_utils import modelserve_image as archives
except ImportError:
    from ansible.module_utils import modelserve_image as archives


def inspect(module: AnsibleModule, image: str) -> tuple[str, list[str]]:
    """Return the image's id and its layers' diff ids, as hex digits, base first."""
    code, out, err = module.run_command(["docker", "image", "inspect", image])
    if code != 0:
        module.fail_json(msg=f"the image {image} is not there: {err.strip()}")
    description = json.loads(out)[0]
    layers = [layer.split(":")[1] for layer in description["RootFS"]["Layers"]]
    return description["Id"].split(":")[1], layers


def files(directory: Path) -> set[str]:
    """Return the names in a directory."""
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def parts(index: dict[str, Any]) -> set[str]:
    """Return the names of the files that an index needs."""
    return {index["archive"]} if index.get("archive") else {index["config"], *index["layers"]}


def exported(store: Path, image: str, number: str, layers: list[str]) -> bool:
    """Return whether the store has this image."""
    try:
        index = json.loads((store / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = (index["image"], index.get("id", index["config"]), index["layers"]) == (image, number, layers)
    return same and parts(index) <= files(store / "layers")


def export(image: str, number: str, layers: list[str], directory: Path) -> tuple[dict[str, Any], int]:
    """Write the missing files of an image.

    Args:
        image: its name and tag.
        number: its id.
        layers: its layers' diff ids.
        directory: of the store's layers.

    Returns:
        The index, and the bytes written. Where layers cannot be told apart in Docker's archive (compressed in another
        way than gzip), the index names the archive as a whole.

    Raises:
        RuntimeError: ``docker save`` fails.
    """
    index = {"image": image, "id": number, "config": number, "layers": layers, "archive": ""}
    if {number, *layers} <= files(directory):  # a file of that name is a configuration: the image's, then
        return index, 0
    saved = archives.save(image, layers, directory)
    if saved.config and set(layers) <= files(directory):
        return {**index, "config": saved.config}, saved.written
    archive = archives.save_whole(image, directory)
    return {**index, "config": "", "archive": archive}, (directory / archive).stat().st_size


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"image": {"type": "str", "required": True}, "store": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    image, store = module.params["image"], Path(module.params["store"])
    number, layers = inspect(module, image)
    if exported(store, image, number, layers):
        module.exit_json(changed=False, written=0)
    if module.check_mode:
        module.exit_json(changed=True, written=0)
    directory = store / "layers"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        index, written = export(image, number, layers, directory)
        part = store / "index.json.part"
        part.write_text(json.dumps(index), encoding="utf-8")
        part.rename(store / "index.json")
        for name in files(directory) - parts(index):
            (directory / name).unlink()
    except (OSError, RuntimeError) as error:
        module.fail_json(msg=f"the image cannot be exported to {store}: {error}")
    module.exit_json(changed=True, written=written)


if __name__ == "__main__":
    main()

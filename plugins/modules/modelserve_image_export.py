#!/usr/bin/python
"""Puts an image into the store, one file per layer, named by its content."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_image_export
short_description: Lay a Docker image out as files
description:
  - Writes C(<store>/layers/<sha256>) for each layer and for the image's configuration, and C(<store>/index.json), which
    names them in order. Layers that are there already are not written again; those of other images are removed.
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
- name: Put the image into the store
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

from ansible.module_utils.basic import AnsibleModule

CHUNK = 1 << 20


def inspect(module, image):
    """The image's id and its layers' hashes, as hex digits, base first."""
    code, out, err = module.run_command(["docker", "image", "inspect", image])
    if code != 0:
        module.fail_json(msg="the image {0} is not there: {1}".format(image, err.strip()))
    found = json.loads(out)[0]
    return found["Id"].split(":")[1], [layer.split(":")[1] for layer in found["RootFS"]["Layers"]]


def export(image, wanted, directory):
    """Write what is wanted and not there, from ``docker save``; returns the bytes written.

    Raises:
        RuntimeError: Docker does not give it.
    """
    saver = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    written, broken = 0, ""
    try:
        with tarfile.open(fileobj=saver.stdout, mode="r|") as archive:
            written = unpack(archive, wanted, directory)
    except tarfile.TarError as error:  # mostly, Docker has ended: it says why
        broken = str(error)
    saver.stdout.close()
    error = saver.stderr.read().decode(errors="replace").strip()
    if saver.wait() != 0 or broken:
        raise RuntimeError("docker save failed: {0}".format(error or broken))
    return written


def unpack(archive, wanted, directory):
    """Write what is wanted and not there; returns the bytes written.

    Files of the archive are told by their hash: a layer's name in it differs between Docker's versions.
    """
    written = 0
    for member in archive:
        if not member.isfile():
            continue
        source = archive.extractfile(member)
        aside = os.path.join(directory, ".part")
        digest = hashlib.sha256()
        with open(aside, "wb") as target:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                target.write(chunk)
        name = digest.hexdigest()
        if name in wanted and not os.path.exists(os.path.join(directory, name)):
            os.rename(aside, os.path.join(directory, name))
            written += member.size
        else:
            os.unlink(aside)
    return written


def main():
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={"image": {"type": "str", "required": True}, "store": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    image, store = module.params["image"], module.params["store"]
    number, layers = inspect(module, image)
    index = {"image": image, "config": number, "layers": layers}
    index_file = os.path.join(store, "index.json")
    directory = os.path.join(store, "layers")
    wanted = set([number] + layers)
    present = set(os.listdir(directory)) if os.path.isdir(directory) else set()
    if os.path.exists(index_file) and wanted <= present:
        with open(index_file, encoding="utf-8") as stream:
            if json.load(stream) == index:
                module.exit_json(changed=False, written=0)
    if module.check_mode:
        module.exit_json(changed=True, written=0)
    os.makedirs(directory, exist_ok=True)
    try:
        written = export(image, wanted, directory) if not wanted <= present else 0
    except (OSError, RuntimeError) as error:
        module.fail_json(msg="the image cannot be put into {0}: {1}".format(store, error))
    missing = wanted - set(os.listdir(directory))
    if missing:
        module.fail_json(msg="docker save gave no layer {0} of {1}".format(sorted(missing)[0], image))
    with open(index_file + ".part", "w", encoding="utf-8") as stream:
        json.dump(index, stream)
    os.rename(index_file + ".part", index_file)
    for name in set(os.listdir(directory)) - wanted:
        os.unlink(os.path.join(directory, name))
    module.exit_json(changed=True, written=written)


if __name__ == "__main__":
    main()

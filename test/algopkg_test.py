#!/usr/bin/env python3
"""Does an algorithm package load and answer, in its own environment? Try it before you deploy it.

Set the four values below, or pass them as options:

    python3 test/algopkg_test.py
    python3 test/algopkg_test.py --name TextEmbedding --backend TextEmbedding \
        --model minilm-int8.onnx,minilm-tokenizer.json --params '{"sentence": "a cat"}'

Works from the checkout (it runs itself in the modelserve image, which `make up` builds) and in the head's container.
Nothing that is served is touched.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ALGO_PKG_NAME = "AlgoExample"
BACKEND_CLS_NAME = "algo_backend"
MODEL_NAME = "example_words.json"  # several: "a.pb,b.pb"; none: ""
PARAM_DICT = {"text": "a good day"}

PROJECT = Path(__file__).resolve().parent.parent
HOME = "/opt/modelserve"


def image() -> str:
    """The newest modelserve image on this machine; ends the program when there is none."""
    if shutil.which("docker") is None:
        sys.exit("error: there is no Docker here. Run `make up` first, or run this in the head's container")
    command = ["docker", "images", "--filter", "label=modelserve.part=image", "--format", "{{.ID}}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        sys.exit(f"error: {found.stderr.strip()}")
    if not found.stdout.strip():
        sys.exit("error: there is no modelserve image on this machine yet. Run `make up` first")
    return found.stdout.split()[0]


def main() -> int:
    """Run the test; returns 0 when the package loaded and answered with status 1."""
    parser = argparse.ArgumentParser(description="Load an algorithm package and ask it one request.")
    parser.add_argument("--name", default=ALGO_PKG_NAME, help="the directory under algopkg/")
    parser.add_argument("--backend", default=BACKEND_CLS_NAME, help="the class in backend.py")
    parser.add_argument("--model", default=MODEL_NAME, help="files in Model_ZOO, comma separated")
    parser.add_argument("--params", default=json.dumps(PARAM_DICT), help="the request, as JSON")
    parser.add_argument("--home", default=HOME, help="modelserve_home, where environments are kept")
    options = parser.parse_args()

    test = ["test", options.name, "--backend", options.backend, "--model", options.model, "--params", options.params]
    if Path("/opt/venv/bin/modelserve").exists():  # in the image already
        command = ["modelserve", *test, "--project", str(PROJECT)]
    else:
        home = Path(options.home)
        owner = home.stat().st_uid if home.exists() else 0  # what is built there belongs to the owner of the data
        command = ["docker", "run", "--rm", "--network", "host", "--shm-size", "1g"]
        command += ["--user", f"{owner}:0", "--env", f"HOME={home}/user"]
        command += ["--volume", f"{PROJECT}:/project:ro", "--volume", f"{options.home}:{options.home}"]
        # The values of secrets come from this environment: by their names, so that no command line shows them.
        for name in re.findall(r"^secret\.([A-Za-z_][A-Za-z0-9_]*)", (PROJECT / "conf.ini").read_text(), re.MULTILINE):
            command += ["--env", name]
        command += ["--env", f"MODELSERVE_HOME={options.home}", image(), *test, "--project", "/project"]
    ok = subprocess.run(command, check=False).returncode == 0
    print(f"{options.name}: {'passed' if ok else 'FAILED'}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())

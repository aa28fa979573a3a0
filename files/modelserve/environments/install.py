"""Install the lock of an environment by uv, with the files, directories and options that it names."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from modelserve.environments import index_options, inputs, local, uv
from modelserve.environments.resolve import Environment
from modelserve.settings import Settings
from modelserve.store.store import Store


def install(
    command: Sequence[str], environment: Environment, settings: Settings, store: Store
) -> subprocess.CompletedProcess[str]:
    """Run uv's installation of an environment's lock.

    Args:
        command: uv's arguments, without the lock.
        environment: the environment.
        settings: say where packages come from.
        store: the store with uv's cache.

    Returns:
        The completed process, whatever its exit status.

    Raises:
        UserError: a directory that the lock names has other content now.
    """
    options = [line for line in environment.lock.splitlines() if line.startswith("--")]
    staging = environment.path / ".local"
    lock = environment.path / ".requirements.txt"
    try:
        local.stage(environment.locals, staging)
        requirements = [line for line in environment.lock.splitlines() if line not in options]
        lines = inputs.staged("\n".join([*index_options.of_files(options), *requirements]), staging)
        lock.write_text(f"{lines}\n")
        arguments = [*command, *index_options.arguments(options), "-r", str(lock)]
        if options:  # each package has one version, with its hashes: any index may have it
            arguments += ["--index-strategy", "unsafe-best-match"]
        own_index = index_options.has_own_index(options)
        return uv.run(arguments, settings, store, own_index=own_index, directory=environment.path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.unlink(missing_ok=True)

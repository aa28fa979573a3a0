"""The CPU threads of a replica's numeric libraries: their number is set before the package is imported.

Ray sets ``OMP_NUM_THREADS`` to the cores that a replica reserves, and to 1 where it reserves none. Without it every
library would take all cores of the host, in each replica.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from modelserve.serve.contract import OMP, cpu_threads_of

# What torch, numpy, scipy, scikit-learn, numexpr, numba and TensorFlow read when they are imported.
VARIABLES = (
    OMP,
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def set_variables(threads: int, reserved_cpus: float, own: Collection[str]) -> int:
    """Set the variables of the libraries in ``os.environ``, except those that the section sets itself.

    Args:
        threads: the section's ``cpu_threads``; 0: it has none.
        reserved_cpus: cores that the replica reserves; 0: none.
        own: names of the section's own variables.

    Returns:
        The number of threads.
    """
    listed = os.environ.get(OMP, "") if OMP in own else ""
    home = Path(os.environ.get("MODELSERVE_HOME") or "/opt/modelserve")
    number = cpu_threads_of(listed, threads, reserved_cpus, cores(), replicas_per_node(home))
    for name in VARIABLES:
        if name not in own:
            os.environ[name] = str(threads or number)
    return number


def cores() -> int:
    """Return the number of cores that this process may use: the host's, or fewer where the container is limited."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(available, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit: "max 100000"
        return available


def replicas_per_node(home: Path) -> int:
    """Return how many replicas a node of the cluster has, by the manifest of the store; 1 where there is none.

    Args:
        home: modelserve_home of this node.
    """
    for directory in ("store", "node"):  # the head's own, and a worker's copy
        try:
            document = json.loads((home / directory / "manifest.json").read_text())
            # A head of the version before names no number; its packages are at least as many as its algorithms.
            packages = sum(content["path"].startswith("pkg/") for content in document.get("needed", ()))
            return max(1, int(document.get("replicas_per_node") or packages))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return 1

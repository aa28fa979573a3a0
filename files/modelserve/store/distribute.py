"""Has every live worker what is about to be served? Asks each of them, as a Ray task, to fetch what it lacks.

Workers that are off are left alone: they catch up before they join.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from modelserve.errors import UserError
from modelserve.serve.api import NAME_LABEL
from modelserve.settings import Settings

Progress = Callable[[str], None]
SAY_AGAIN_S = 15
OUTAGE_S = 60  # a store that restarts during a deploy is waited for


def to_workers(progress: Progress) -> None:
    """Return when every live worker has all the store's manifest names.

    Args:
        progress: gets a line per worker.

    Raises:
        UserError: naming each worker that cannot, and why. One that goes away meanwhile is none of those.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", namespace="modelserve", log_to_driver=False, logging_level="ERROR")
    try:
        fetch = ray.remote(num_cpus=0, max_retries=0)(_fetch)
        workers = {
            node["NodeID"]: node["Labels"].get(NAME_LABEL, node["NodeManagerAddress"])
            for node in ray.nodes()
            if node["Alive"] and not _is_head(node)
        }
        waiting = {
            fetch.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): name
            for node, name in workers.items()
        }
        problems = []
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=SAY_AGAIN_S)
            for task in done:
                name = waiting.pop(task)
                try:
                    fetched, problem = ray.get(task)
                except ray.exceptions.RayError:
                    progress(f"{name}: gone; it catches up when it comes back")
                    continue
                if problem:
                    problems.append(f"{name}: {problem}")
                else:
                    progress(f"{name}: has it" + (f", fetched {len(fetched)}" if fetched else ""))
            if not done:
                progress(f"fetching: {', '.join(sorted(waiting.values()))}")
        if problems:
            raise UserError("\n".join(problems))
    finally:
        ray.shutdown()


def _fetch() -> tuple[list[str], str]:
    """Runs on a worker: what was fetched, or the problem in words."""
    from modelserve.store.sync import Puller

    head = os.environ["MODELSERVE_HEAD"]
    puller = Puller(Settings.load(), head, lambda line: print(line, flush=True), outage_s=OUTAGE_S)
    try:
        return puller.catch_up(), ""
    except UserError as error:
        return [], str(error)


def _is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]

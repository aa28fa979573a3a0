"""Replicate the store to every live worker: a Ray task on each of them fetches what the worker lacks.

Workers that are off sync before they join.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from modelserve.errors import UserError
from modelserve.serve.api import NAME_LABEL
from modelserve.settings import Settings

Progress = Callable[[str], None]
PROGRESS_S = 15
OUTAGE_S = 60  # a store can restart during a deploy


def replicate_to_workers(progress: Progress) -> None:
    """Return when every live worker has all entries that the store's manifest names.

    Args:
        progress: gets a line per worker.

    Raises:
        UserError: workers that cannot fetch an entry, each with the cause. A worker that stops meanwhile is ignored.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", namespace="modelserve", log_to_driver=False, logging_level="ERROR")
    try:
        sync = ray.remote(num_cpus=0, max_retries=0)(_sync)
        workers = {
            node["NodeID"]: node["Labels"].get(NAME_LABEL, node["NodeManagerAddress"])
            for node in ray.nodes()
            if node["Alive"] and not _is_head(node)
        }
        pending = {
            sync.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): name
            for node, name in workers.items()
        }
        problems = []
        while pending:
            finished, _ = ray.wait(list(pending), timeout=PROGRESS_S)
            for task in finished:
                name = pending.pop(task)
                try:
                    fetched, problem = ray.get(task)
                except ray.exceptions.RayError:
                    progress(f"{name}: stopped; it syncs when it starts again")
                    continue
                if problem:
                    problems.append(f"{name}: {problem}")
                else:
                    progress(f"{name}: has it" + (f", fetched {len(fetched)}" if fetched else ""))
            if not finished:
                progress(f"fetching: {', '.join(sorted(pending.values()))}")
        if problems:
            raise UserError("\n".join(problems))
    finally:
        ray.shutdown()


def _sync() -> tuple[list[str], str]:
    """Sync the worker that this runs on. Return the fetched paths and the problem, empty when there is none."""
    from modelserve.store.sync import StoreClient

    head = os.environ["MODELSERVE_HEAD"]
    client = StoreClient(Settings.load(), head, lambda line: print(line, flush=True), outage_s=OUTAGE_S)
    try:
        return client.sync(), ""
    except UserError as error:
        return [], str(error)


def _is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]

"""Replicate the store to every live worker: a Ray task on each of them fetches what the worker lacks.

Workers that are off sync before they join.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

from modelserve.errors import UserError
from modelserve.serve.api import NAME_LABEL
from modelserve.settings import Settings

Progress = Callable[[str], None]
PROGRESS_S = 15
SHOWN_NAMES = 8  # of workers that still fetch; a line stays readable with 50
OUTAGE_S = 60  # a store can restart during a deploy


def replicate_to_workers(progress: Progress, fetch_timeout_s: float) -> None:
    """Return when every live worker has all entries that the store's manifest names.

    Args:
        progress: gets a line per worker, with how many of how many have all of it.
        fetch_timeout_s: seconds that a worker waits for its turn at the store.

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
            sync.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                fetch_timeout_s
            ): name
            for node, name in workers.items()
        }
        if problems := _wait(pending, progress):
            raise UserError("\n".join(problems))
    finally:
        ray.shutdown()


def _wait(pending: dict[Any, str], progress: Progress) -> list[str]:
    """Wait for the tasks of :func:`_sync`, which are given with their workers' names. Return the problems."""
    import ray

    problems = []
    workers, complete = len(pending), 0
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
                progress(f"{name}: failed")
            else:
                complete += 1
                entries = f", fetched {len(fetched)}" if fetched else ""
                progress(f"{name}: has it{entries} ({complete} of {workers} workers)")
        if not finished:
            progress(describe_pending(pending.values(), complete, workers))
    return problems


def describe_pending(names: Collection[str], complete: int, workers: int) -> str:
    """Return the line that says which workers still fetch.

    Args:
        names: workers that fetch or wait for their turn.
        complete: how many workers have everything.
        workers: how many there are.
    """
    shown = sorted(names)[:SHOWN_NAMES]
    others = len(names) - len(shown)
    text = ", ".join(shown) + (f" and {others} more" if others else "")
    return f"{complete} of {workers} workers have it; fetching: {text}"


def _sync(fetch_timeout_s: float) -> tuple[list[str], str]:
    """Sync the worker that this runs on. Return the fetched paths and the problem, empty when there is none."""
    from modelserve.store.sync import StoreClient

    head = os.environ["MODELSERVE_HEAD"]
    # The settings are on the head alone.
    settings = Settings.load().model_copy(update={"fetch_timeout_s": fetch_timeout_s})
    client = StoreClient(settings, head, lambda line: print(line, flush=True), outage_s=OUTAGE_S)
    try:
        return client.sync(), ""
    except UserError as error:
        return [], str(error)


def _is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]

"""The resources of nodes: what a replica needs, what a node has free, and whether replicas fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelserve.serve.application import Resources

# Ray's kinds of resources that a section can reserve; memory in bytes.
KINDS = ("GPU", "CPU", "memory")
# Sums of fractions are off by a little.
TOLERANCE = 1e-6

Amounts = Mapping[str, float]


def fits(cost: Amounts, free: Amounts) -> bool:
    """Return whether the free resources of a node are enough for a replica."""
    return all(free.get(kind, 0) >= value - TOLERANCE for kind, value in cost.items())


def text_of(amounts: Amounts, zero: bool = False) -> str:
    """Return amounts as text: ``0.5 GPU and 512 MiB memory``; with ``zero``, also the kinds whose amount is 0."""
    words = [
        f"{value / 2**20:.0f} MiB memory" if kind == "memory" else f"{value:g} {kind}"
        for kind, value in amounts.items()
        if value or zero
    ]
    return " and ".join(words)


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether a node's labels match a selector: a value, or ``!`` and a value that a label must not have."""
    return all(
        labels.get(key) != value[1:] if value.startswith("!") else labels.get(key) == value
        for key, value in selector.items()
    )


def missing_elsewhere(replicas: Iterable[tuple[str, Amounts]], nodes: Iterable[Amounts]) -> str:
    """Return what is missing to place replicas on nodes; empty when they fit (first fit, largest GPU share first).

    Args:
        replicas: name and cost of each.
        nodes: the free resources of each node.
    """
    free = [dict(amounts) for amounts in nodes]
    for name, cost in sorted(replicas, key=lambda replica: replica[1]["GPU"], reverse=True):
        node = next((amounts for amounts in free if fits(cost, amounts)), None)
        if node is None:
            return f"a replica of {name} needs {text_of(cost) or 'a node'}, which no other node has free"
        for kind, value in cost.items():
            node[kind] = node.get(kind, 0) - value
    return ""


def missing_for(resources: Resources, free: Mapping[str, Amounts], overdue: bool) -> str:
    """Return what a new replica is missing; empty while a node seems to have it.

    Args:
        resources: what the replica reserves.
        free: the free resources of each node whose labels match, by the node's name.
        overdue: whether it waits for so long that a node whose GPUs seem to suffice cannot have it: free shares of
            several GPUs are not a whole GPU, and only Ray knows which share is on which GPU. No other resource is in
            parts: a replica without a GPU that fits waits only because Ray is slow.
    """
    cost = resources.amounts
    schedulable = any(fits(cost, amounts) for amounts in free.values())
    if schedulable and not (overdue and cost["GPU"]):
        return ""
    labels = ", ".join(f"{key}={value}" for key, value in resources.labels.items())
    where = f" with {labels}" if labels else ""
    if not free:
        return f"no capacity for a new replica: there is no node{where}"
    kinds = [kind for kind, value in cost.items() if value]
    nodes = [f"{node} {text_of({kind: amounts[kind] for kind in kinds}, zero=True)}" for node, amounts in free.items()]
    parts = ", in parts of several GPUs" if schedulable else ""
    return f"no capacity for a new replica: it needs {text_of(cost)}{where}; free are {', '.join(nodes)}{parts}"

"""Capacity: what is said to fit does fit, and what is missing is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelserve.serve.application import Resources
from modelserve.serve.capacity import fits, matches, missing_elsewhere, missing_for, text_of

# Eighths are exact in binary: what an assignment leaves free is no matter of rounding.
eighths = st.integers(0, 16).map(lambda number: number / 8)
resources = st.fixed_dictionaries({"GPU": eighths, "CPU": eighths})
replicas = st.lists(st.tuples(st.sampled_from(["A", "B", "C"]), resources), max_size=5)


def an_assignment_exists(costs: list[dict[str, float]], rooms: list[dict[str, float]]) -> bool:
    """Tries all of them."""
    if not costs:
        return True
    for room in rooms:
        if all(room[kind] >= costs[0][kind] for kind in room):
            left = {kind: room[kind] - costs[0][kind] for kind in room}
            if an_assignment_exists(costs[1:], [left if other is room else other for other in rooms]):
                return True
    return False


@given(replicas, st.lists(resources, max_size=3))
def test_what_is_said_to_fit_does(wanted: list[tuple[str, dict[str, float]]], rooms: list[dict[str, float]]) -> None:
    if not missing_elsewhere(wanted, rooms):
        assert an_assignment_exists([cost for _, cost in wanted], rooms)


@given(replicas, st.lists(resources, max_size=3), st.sampled_from(["GPU", "CPU"]))
def test_what_is_larger_than_every_node_never_fits(
    others: list[tuple[str, dict[str, float]]], rooms: list[dict[str, float]], kind: str
) -> None:
    cost = {"GPU": 0.0, "CPU": 0.0, kind: max([room[kind] for room in rooms], default=0) + 0.125}
    assert missing_elsewhere([*others, ("Big", cost)], rooms)


@given(st.lists(eighths, max_size=6), resources)
def test_on_one_node_it_is_the_sum_that_counts(gpus: list[float], room: dict[str, float]) -> None:
    wanted = [("A", {"GPU": gpu, "CPU": 0.0}) for gpu in gpus]
    assert (missing_elsewhere(wanted, [room]) == "") == (sum(gpus) <= room["GPU"])


@given(replicas, st.lists(resources, max_size=3))
def test_asking_changes_nothing(wanted: list[tuple[str, dict[str, float]]], rooms: list[dict[str, float]]) -> None:
    before = json.dumps([wanted, rooms])
    missing_elsewhere(wanted, rooms)
    assert json.dumps([wanted, rooms]) == before


def test_sums_of_fractions_fit_though_they_are_rounded() -> None:
    assert missing_elsewhere([("A", {"GPU": 0.1, "CPU": 0})] * 10, [{"GPU": 1.0, "CPU": 0}]) == ""


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ({"GPU": 0.5, "CPU": 0}, "a replica of A needs 0.5 GPU"),
        ({"GPU": 1, "CPU": 2}, "a replica of A needs 1 GPU and 2 CPU"),
        ({"GPU": 0, "CPU": 0}, "a replica of A needs a node"),
    ],
)
def test_what_is_missing_is_named(cost: dict[str, float], said: str) -> None:
    assert said in missing_elsewhere([("A", cost)], [])


@pytest.mark.parametrize(
    ("cost", "room", "expected"),
    [
        ({"GPU": 0.5}, {"GPU": 0.5, "CPU": 0}, True),
        ({"GPU": 0.1 + 0.2}, {"GPU": 0.3}, True),  # sums of fractions are off by a little
        ({"GPU": 0.5}, {"GPU": 0.4}, False),
        ({"GPU": 0, "memory": 2**30}, {"GPU": 1, "memory": 2**29}, False),
        ({"GPU": 1}, {}, False),
        ({}, {}, True),
    ],
)
def test_a_replica_fits_where_everything_it_needs_is_free(
    cost: dict[str, float], room: dict[str, float], expected: bool
) -> None:
    assert fits(cost, room) is expected


def test_labels_select_nodes_as_ray_does() -> None:
    labels = {"modelserve.node": "worker_1", "gpu": "a100"}
    assert matches(labels, {})
    assert matches(labels, {"gpu": "a100", "zone": "!b"})
    assert not matches(labels, {"gpu": "!a100"})
    assert not matches(labels, {"zone": "b"})


def test_amounts_are_said_in_words() -> None:
    assert text_of({"GPU": 0.5, "CPU": 0, "memory": 512 * 2**20}) == "0.5 GPU and 512 MiB memory"
    assert text_of({"GPU": 0}, zero=True) == "0 GPU"
    assert text_of({"GPU": 0}) == ""


GPU = Resources(gpus=1)


def test_a_replica_is_missing_nothing_while_a_node_seems_to_have_it() -> None:
    free = {"head": {"GPU": 0.5, "CPU": 1, "memory": 0}, "worker_1": {"GPU": 1, "CPU": 0, "memory": 0}}
    assert missing_for(GPU, free, overdue=False) == ""
    assert "in parts of several GPUs" in missing_for(GPU, free, overdue=True)


def test_what_a_new_replica_is_missing_is_named_with_what_each_node_has() -> None:
    free = {"head": {"GPU": 0.5, "CPU": 1, "memory": 0}, "worker_1": {"GPU": 0, "CPU": 4, "memory": 0}}
    text = missing_for(GPU, free, overdue=False)
    assert text == "no capacity for a new replica: it needs 1 GPU; free are head 0.5 GPU, worker_1 0 GPU"
    assert missing_for(GPU, free, overdue=True) == text, "no node seems to have it: not in parts either"
    labelled = Resources(gpus=1, labels={"zone": "b"})
    assert missing_for(labelled, {}, overdue=False).endswith("there is no node with zone=b")
    assert "it needs 1 GPU with zone=b; free" in missing_for(labelled, free, overdue=False)


@pytest.mark.parametrize("resources", [Resources(), Resources(cpus=1)])
def test_a_replica_that_fits_without_a_gpu_is_missing_nothing_however_long_it_waits(resources: Resources) -> None:
    assert missing_for(resources, {"head": {"CPU": 1}}, overdue=True) == ""

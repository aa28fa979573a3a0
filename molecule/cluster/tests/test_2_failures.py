"""What the cluster survives, under a steady load with retries off; every answer is counted."""

from __future__ import annotations

import time
from collections.abc import Callable

import bed
import pytest
from conftest import WORKERS, Cluster, Load

Table = list[tuple[str, ...]]


def row(what: str, load: Load, at: float, back: float | None = None) -> tuple[str, ...]:
    failed = load.failed()
    kinds = f"{len(failed)} ({load.kinds()})" if failed else "0"
    after = str(len(load.failed(after=at + 5)))
    return (
        what,
        str(len(load.answers)),
        kinds,
        after,
        f"{load.longest():.1f} s",
        "-" if back is None else f"{back:.0f} s",
    )


def crash(host: str, container: str) -> None:
    """End a container as a crash does: Docker sees its process die, and starts it again."""
    bed.on(host, "sh", "-c", f"kill -9 $(docker inspect -f '{{{{.State.Pid}}}}' {container})")


def test_one_of_two_replicas_killed(cluster: Cluster, table: Table) -> None:
    before = set(cluster.replicas())
    with cluster.load() as load:
        worker = cluster.worker_with("AlgoExample")
        at = time.monotonic()
        bed.on(worker, "sh", "-c", "kill -9 $(pgrep -f '^ray::ServeReplica:AlgoExample' | head -1)")
        cluster.wait_until("another replica", lambda: len(set(cluster.replicas()) - before) == 1)
        back = time.monotonic() - at
        cluster.wait_for(*WORKERS)
    table.append(row("one of two replicas killed", load, at, back))
    # What it had in flight, which may have begun, and nothing else.
    assert len(load.failed()) <= 2 and not load.failed(after=at + 1), load.kinds()
    assert len(set(cluster.replicas()) - before) == 1, "replaced by one other"


@pytest.mark.parametrize(
    ("what", "off", "on"),
    [
        ("a worker's container killed", lambda: crash("worker_1", "modelserve_worker_1"), lambda: None),
        pytest.param(
            "a worker powered off and on",
            lambda: bed.power_off("worker_1"),
            lambda: bed.power_on("worker_1"),
            marks=pytest.mark.essential,
        ),
    ],
)
def test_a_worker_goes_and_comes_back(
    cluster: Cluster, table: Table, what: str, off: Callable[[], None], on: Callable[[], None]
) -> None:
    before = cluster.replicas()
    with cluster.load() as load:
        at = time.monotonic()
        off()
        # Its replicas are gone, as the head knows: others are started elsewhere, or where it is back.
        cluster.wait_until("worker_1's replicas missed", lambda: not before.keys() <= cluster.replicas().keys())
        on()
        back_on = time.monotonic()
        cluster.wait_for(*WORKERS)
        back = time.monotonic() - back_on
        time.sleep(2)
    table.append(row(what, load, at, back))
    assert not load.failed(after=at + 5)
    # What was in flight; and who got an error at once asks again before the loss is known.
    assert len(load.failed()) <= 8, load.kinds()


def test_the_heads_container_killed(cluster: Cluster, table: Table) -> None:
    before = cluster.replicas()
    with cluster.load("worker_2") as second, cluster.load() as load:
        at = time.monotonic()
        crash(bed.HEAD, "modelserve_head")
        time.sleep(5)
        cluster.wait_for(*WORKERS)
        back = time.monotonic() - at
        time.sleep(2)
    table.append(row("the head's container killed: through the gateway", load, at, back))
    table.append(row("the same, through the gateway on another host", second, at, back))
    for gateway in (load, second):  # replicas and gateways go on without the head
        assert gateway.answers and not gateway.failed(), gateway.kinds()
    assert cluster.replicas() == before, "nothing was deployed anew"


def test_the_head_host_rebooted(cluster: Cluster, table: Table) -> None:
    before = cluster.replicas()
    with cluster.load("worker_2") as second:
        at = time.monotonic()
        bed.power_off(bed.HEAD)
        time.sleep(5)
        bed.power_on(bed.HEAD)
        on = time.monotonic()
        cluster.wait_for(*WORKERS)
        back = time.monotonic() - on
        time.sleep(5)
    table.append(row("the head host rebooted: through the gateway on another host", second, at, back))
    assert second.answers and not second.failed(), second.kinds()
    with cluster.load() as load:
        time.sleep(2)
    assert load.answers and not load.failed(), "the gateway answers again by itself"
    assert cluster.replicas() == before, "nothing was deployed anew"


def test_a_gateway_restarted_while_the_head_is_off(cluster: Cluster, table: Table) -> None:
    cluster.credentials()  # the head makes the key
    bed.power_off(bed.HEAD)
    try:
        bed.on("worker_2", "docker", "restart", "--time", "1", "modelserve_gateway")
        at = time.monotonic()
        with cluster.load("worker_2") as load:
            time.sleep(10)
        table.append(row("the head off, and the other gateway restarted", load, at))
        assert load.answers and not load.failed(after=at + 3), load.kinds()
    finally:
        bed.power_on(bed.HEAD)
        cluster.wait_for(*WORKERS)


def test_the_network_between_head_and_a_worker_cut(cluster: Cluster, table: Table) -> None:
    release = cluster.ctl("plan")
    head = f"{bed.address(bed.HEAD)}/32"
    with cluster.load() as load:
        at = time.monotonic()
        bed.on("worker_1", "ip", "route", "add", "blackhole", head)
        try:
            time.sleep(30)
        finally:
            bed.on("worker_1", "ip", "route", "del", "blackhole", head)
        healed = time.monotonic()
        cluster.wait_for(*WORKERS)
        back = time.monotonic() - healed
        time.sleep(5)
    table.append(row("the network between head and a worker cut for 30 s", load, at, back))
    assert not load.failed(after=at + 5) and len(load.failed()) <= 4
    assert len(cluster.replicas()) == 4, "nothing is deployed twice"
    assert cluster.ctl("plan") == release


def test_all_hosts_off_and_on(cluster: Cluster, table: Table) -> None:
    hosts = (*WORKERS, bed.HEAD)
    for host in hosts:
        bed.power_off(host)
    for host in hosts:
        bed.power_on(host)
    on = time.monotonic()
    cluster.wait_for(*WORKERS, seconds=300)
    back = time.monotonic() - on
    with cluster.load() as load:
        time.sleep(3)
    table.append(row("all hosts off and on: once it was back", load, time.monotonic(), back))
    assert load.answers and not load.failed()

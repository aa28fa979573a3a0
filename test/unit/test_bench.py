"""The benchmark's parts that measure nothing: what wrk is told and prints, the page, the plot; and a fixed rate."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import hosts
import hotspots
import page
import processes
import run
import steady
import wrk
from wrk import Load

REPORT = """Running 6s test @ http://127.0.0.1:666/echo
  2 threads and 32 connections
  Latency Distribution
     50%  900.00us
     75%    8.00ms
     90%   12.05ms
     99%    1.25s
  1000 requests in 6.00s, 1.00MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:    166.67
"""


def results() -> page.Results:
    loads = {
        "modelserve": [Load(400, 5, 10, 0), Load(100, 5, 10, 0), Load(300, 5, 10, 0)],
        "LitServe": [Load(200, 9, 20, 0), Load(50, 9, 40, 1), Load(100, 9, 8, 0)],
    }
    return page.Results(
        machine=["Machine: one"],
        sides={"modelserve": ("1", "as shipped"), "LitServe": ("2", "two workers")},
        missing={"BentoML": "no wheel"},
        runs={("embed", 32): loads, ("echo", 32): loads, ("echo", 1): loads},
        steady={("echo", 100): {title: rounds[:1] for title, rounds in loads.items()}},
        changes=[("replicas 1 to 2", "2.0 s", "under 5 s")],
        pressure=[("the others", "9 with 429", "none hangs")],
        profile=[("Echo's replica", "138 µs", "processor time per request")],
        taken={"pressure": "abc1234, 2026-01-02"},
    )


def row(text: str, section: str, title: str) -> list[str]:
    """The cells of the first row named ``title`` below a heading."""
    lines = text.partition(f"## {section}")[2].splitlines()
    return next([cell.strip() for cell in line.split("|")[2:-1]] for line in lines if line.startswith(f"| {title} |"))


def test_what_wrk_prints_is_read_in_milliseconds_with_all_that_failed() -> None:
    assert wrk.parse(REPORT) == Load(166.67, 0.9, 1250.0, 7)


def test_output_that_is_no_report_is_refused() -> None:
    with pytest.raises(ValueError, match="not a report"):
        wrk.parse("unable to connect")


def test_a_body_reaches_lua_as_it_is() -> None:
    assert '[=[{"text": "a \\"quoted\\" [[word]]"}]=]' in wrk.lua([{"text": 'a "quoted" [[word]]'}])


def test_the_page_has_medians_and_counts_failures() -> None:
    text = page.page(results(), 4)
    assert row(text, page.WORKS["echo"], "modelserve")[:2] == ["300", "5.0 / 10.0"]
    assert row(text, page.WORKS["echo"], "LitServe")[:2] == ["100 (1 failed)", "9.0 / 20.0"]


def test_ratios_are_taken_round_by_round() -> None:
    loads = results().runs["echo", 32]
    assert page.ratio(loads["modelserve"], loads["LitServe"]) == 2.0  # of the medians it would be 3


def test_an_aim_that_is_missed_is_said() -> None:
    late = {"modelserve": [Load(100, 5, 30, 0)], "LitServe": [Load(200, 9, 20, 0)]}
    lines = page.aims(page.Results(runs={("embed", 32): late}), "embed")
    assert lines[-1].count("missed") == 2
    assert page.aims(results(), "embed")[-1].count("met") == 2


def test_a_peer_that_could_not_be_measured_is_named() -> None:
    assert "| BentoML | | not measured: no wheel |" in page.page(results(), 4)


def test_results_come_back_from_json() -> None:
    assert page.Results.from_json(json.loads(json.dumps(results().to_json()))) == results()


def test_a_part_that_was_measured_says_at_which_version_and_one_that_was_not_is_left_out() -> None:
    text = page.page(results(), 4)
    assert "taken at abc1234, 2026-01-02." in text.partition("## Under pressure")[2]
    assert "## Soak test" not in text


def test_each_sample_is_of_the_kind_its_first_known_frame_says() -> None:
    loop = "MainThread;run (threading.py:1);run_asgi (uvicorn/httptools_impl.py:2)"
    front = f"{loop};Front.__call__ (modelserve/replica/front.py:3)"
    call = f"{front};Application.__call__ (modelserve/replica/application.py:4)"
    answer = f"{call};SingleWriteResponse.__call__ (modelserve/replica/uvicorn_compat.py:5)"
    found = hotspots.shares(
        [
            "other;sleep (time.py:1) 900",
            f"{loop} 10",
            f"{front} 5",
            f"{front};record_request_metrics (ray/serve/_private/replica.py:3) 20",
            f"{call};run (modelserve/replica/inference.py:5) 25",
            f"{answer};send (uvicorn/httptools_impl.py:6) 24",
            f"{answer};_BufferedTransport.flush (modelserve/replica/uvicorn_compat.py:7) 16",
        ]
    )
    assert found == [
        (hotspots.CALLING, 0.25),
        (hotspots.ANSWERING, 0.24),
        (hotspots.SERVE, 0.2),
        (hotspots.WRITING, 0.16),
        (hotspots.SERVER, 0.1),
        (hotspots.FRONT, 0.05),
    ]


@pytest.mark.parametrize(
    "frame", [frame for frame, _ in hotspots.KINDS if "(modelserve/" in frame and frame.endswith(".py")]
)
def test_each_frame_of_the_package_exists(frame: str) -> None:
    function, _, file = frame.partition(" (")
    text = (Path(__file__).resolve().parents[2] / "files" / file).read_text()
    owner, _, name = function.rpartition(".")
    assert f"def {name}(" in text
    assert not owner or re.search(rf"^class {owner}\b", text, re.M)


def test_samples_without_a_thread_that_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the threads"):
        hotspots.shares(["other;sleep (time.py:1) 900"])


def test_a_process_is_known_by_its_program_or_the_name_ray_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {
        "modelserve_head": "10 ray::ServeReplica:Echo:Echo\n11 sh -c raylet\n13 /x/raylet -a",
        "modelserve_gateway": "20 haproxy -W\n21 haproxy -sf 3\n22 sh -c haproxy",
        "modelserve_gateway_sync": "30 python /opt/venv/bin/modelserve gateway sync\n31 tini",
    }
    monkeypatch.setattr(processes.cluster, "run", lambda *command: f"PID COMMAND\n{listed[command[2]]}")
    expected = {processes.REPLICA: [10], "raylet": [13], processes.GATEWAY: [20, 21], processes.SYNC_AGENT: [30]}
    assert processes.by_part() == expected


def test_the_plot_is_small_and_its_bars_are_in_proportion() -> None:
    svg = page.plot(results())
    assert len(svg) < 50_000
    bars = [element for element in xml.etree.ElementTree.fromstring(svg).iter() if element.get("rx")]
    ours, theirs = (float(bar.attrib["width"]) for bar in bars[:2])
    assert ours == pytest.approx(3 * theirs, rel=0.01)


@pytest.fixture
def slow_once() -> Iterator[str]:
    """A server that answers one request at a time, the first after 0.3 s."""
    turn, answered = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with turn:
                answered[0] += 1
                if answered[0] == 1:
                    time.sleep(0.3)
            self.send_response(429 if self.path == "/full" else 200)
            if self.path == "/chunks":
                self.send_header("Transfer-Encoding", "chunked")
                body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body, b"and more", b""))
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not needed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_who_asks_during_a_pause_waits_from_when_it_was_due(slow_once: str) -> None:
    load = steady.load(slow_once, [{}], 50, 0.4)
    assert load.failed == 0
    assert load.p50_ms > 50  # most of the twenty came during the pause
    assert load.p99_ms >= 290


def test_an_answer_in_chunks_is_read_to_its_end(slow_once: str) -> None:
    assert steady.load(f"{slow_once}chunks", [{}], 50, 0.4).failed == 0


def test_no_answer_is_a_failure() -> None:
    assert steady.load("http://127.0.0.1:9/", [{}], 20, 0.2).failed == 4


def test_answers_are_told_apart_by_their_status(slow_once: str) -> None:
    found = steady.answers(f"{slow_once}full", [{}], 50, 0.2)
    assert list(found) == [429] and len(found[429]) == 10 and found[429] == sorted(found[429])
    assert list(steady.answers("http://127.0.0.1:9/", [{}], 20, 0.1)) == [0]


def test_what_was_asked_under_pressure_is_on_the_page() -> None:
    assert row(page.page(results(), 3), "Under pressure", "the others") == ["9 with 429", "none hangs"]
    assert "[ [=[X-API-Key]=] ] = [=[secret]=]" in wrk.lua([{}], {"X-API-Key": "secret"})


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker whose commands run this script; uploads do nothing."""
    script = tmp_path / "docker"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(run.cluster, "upload", lambda scratch: None)
    script.write_text("#!/bin/sh\nsleep 0.3; echo building\n")
    script.chmod(0o755)
    return script


def test_a_change_counts_until_its_answer_and_until_the_command_ends(docker: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited"
    change = run.Change("code edited", edited.touch, edited.exists, "reported")
    title, figures, aim = change.measure(tmp_path)
    live_s, ended_s = (float(number) for number in re.findall(r"(\d+\.\d) s", figures))
    assert (title, aim, live_s) == ("code edited", "reported", 0.0)
    assert ended_s >= 0.3
    assert "environment built, `apply` ends after" in figures


def test_a_change_that_fails_or_keeps_the_old_answer_ends_the_benchmark(docker: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="code edited: docker exec modelserve_head modelserve apply ended with 0"):
        run.Change("code edited", lambda: None, lambda: False).measure(tmp_path)
    docker.write_text("#!/bin/sh\necho broken; exit 1\n")
    with pytest.raises(SystemExit, match="ended with 1:\nbroken"):
        run.Change("replicas 1 to 2", lambda: None, None).measure(tmp_path)


def test_the_changes_end_with_the_original_project(tmp_path: Path) -> None:
    code = tmp_path / "algopkg/Echo/backend.py"
    code.parent.mkdir(parents=True)
    code.write_text("return param_dict\n")
    conf = tmp_path / "conf.ini"
    conf.write_text(run.cluster.SECTION)
    states = []
    for change in run.live_changes(tmp_path):
        change.edit()
        states.append((conf.read_text(), code.read_text(), change.command))
    assert {command for *_, command in states} == {"apply", "rollback"}
    assert any("replicas = 2" in text for text, *_ in states)
    assert any("[algopkg.Echo]" not in text for text, *_ in states)
    assert any('return {"new": True}' in text for _, text, _ in states)
    assert states[-1] == (run.cluster.SECTION, "return param_dict\n", "apply")
    assert sorted(path.name for path in code.parent.iterdir()) == ["backend.py"]


def test_the_page_of_hosts_has_each_measurement() -> None:
    result = hosts.RealHosts(100, 20.25, 0, 60, [("role : task", 9.5)], 12, {"head_node": 1.5}, {"head_node": 64.25})
    text = "\n".join(hosts.real_hosts_page(result))
    assert "| first `site.yml`, three fresh hosts | 100 s | reported |" in text
    assert "| second `site.yml`, three hosts | 20.2 s, changed=0 | under 25 s |" in text
    assert "| role : task | 9.5 |" in text
    assert "| first `site.yml` | 1.5 |\n| a model of 64 MiB deployed | 64.2 |" in text

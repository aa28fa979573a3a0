"""Catching up with the head's store: a real daemon on this machine serves it, and what came is what the head has."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from modelserve import hashing
from modelserve.errors import UserError
from modelserve.security import encryption
from modelserve.settings import Settings
from modelserve.store import integrity, joined, rsync_server, secret_values, sync
from modelserve.store.manifest import NAME, Manifest, Versions, contents
from modelserve.store.store import Store
from modelserve.store.sync import Attempts, BusyError, StoreClient, UnreachableError
from modelserve.util import read_only

if TYPE_CHECKING:
    from conftest import StoreServer

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Head:
    """A head whose store is served, to be filled by a test."""

    server: StoreServer
    store: Store

    def add_env(self, name: str, **files: str) -> str:
        """An environment as builds leave one: links, an executable, a wheel's hidden directory."""
        env = self.store.root / "env" / name
        libs = env / "lib" / "pkg.libs"
        (libs / ".hidden").mkdir(parents=True)
        (env / "bin").mkdir()
        (env / "empty").mkdir()
        (libs / ".hidden" / "libx.so.1").write_text("code\n")
        (libs / "libx.so").symlink_to(".hidden/libx.so.1")
        (env / "bin" / "python").symlink_to("/bin/sh")
        (env / "lib64").symlink_to("lib")
        (env / "bin" / "dangling").symlink_to("/not/on/this/machine")
        for file, text in {"tool": "#!/bin/sh\n", **files}.items():
            (env / "bin" / file).write_text(text)
            (env / "bin" / file).chmod(0o755)
        self.store.complete(env, {"name": name})
        return f"env/{name}"

    def add_package(self, name: str, **files: str) -> str:
        source = self.server.home / "algopkg" / name
        source.mkdir(parents=True)
        for file, text in files.items():
            (source / f"{file}.py").write_text(text)
        return str(self.store.add_package(name, source).relative_to(self.store.root))

    def add_model(self, name: str, content: bytes = WEIGHTS) -> str:
        source = self.server.home / "Model_ZOO" / name
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(content)
        return str(self.store.add_model(source).relative_to(self.store.root))

    def add_model_directory(self, name: str, **files: bytes) -> str:
        source = self.server.home / "Model_ZOO" / name
        for file, content in files.items():
            (source / "sub").mkdir(parents=True, exist_ok=True)
            (source / "sub" / file).write_bytes(content)
        return str(self.store.add_model(source).relative_to(self.store.root))

    def publish(
        self,
        *needed: str,
        kept: tuple[str, ...] = (),
        versions: Versions | None = None,
        sets: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        manifest = Manifest(
            versions=versions or Versions(), needed=contents(needed, self.store), kept=kept, sets=sets or {}
        )
        manifest.publish(self.store)


@pytest.fixture
def head(store_server_of_head: StoreServer, ray_version: Path, monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.syspath_prepend(ray_version)
    return Head(store_server_of_head, Store(store_server_of_head.store))


@pytest.fixture
def worker(tmp_path: Path, head: Head) -> Settings:
    """A worker's home, with the cluster's token."""
    shutil.copytree(head.server.home / "secrets", tmp_path / "worker" / "secrets")
    return Settings(home=tmp_path / "worker")


def catch_up(worker: Settings, said: list[str] | None = None) -> list[str]:
    return StoreClient(worker, "127.0.0.1", (said if said is not None else []).append).sync()


def refused(worker: Settings) -> str:
    """The one line with which a worker cannot catch up."""
    with pytest.raises(UserError) as caught:
        catch_up(worker)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def stub(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script before rsync."""
    directory.mkdir(exist_ok=True)
    file = directory / "rsync"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.fixture
def transferred(tmp_path: Path, head: Head, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Bytes of files that rsync brought since the last call: not those that were there, and not those linked."""
    log = tmp_path / "statistics"
    with monkeypatch.context() as patch:
        stub(tmp_path / "bin", patch, f'exec {shutil.which("rsync")} --stats "$@" >> {log}')
        path = os.environ["PATH"]
    monkeypatch.setenv("PATH", path)

    def count() -> int:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return sum(int(line.split()[2].replace(",", "")) for line in lines if line.startswith("Literal data:"))

    return count


def shape(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a tree is: kinds, modes, times, links and contents by relative path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            found[str(path.relative_to(root))] = ("link", str(path.readlink()))
            continue
        if path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (status.st_mode, int(status.st_mtime), content)
    return found


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_what_is_missing_is_fetched_whole(head: Head, worker: Settings) -> None:
    paths = [head.add_env("Echo-1"), head.add_package("Echo", backend="x = 1\n"), head.add_model("net.onnx")]
    head.publish(*paths)
    said: list[str] = []
    assert catch_up(worker, said) == paths
    assert said == [f"fetching {path}" for path in paths]
    for path in paths[:2]:
        assert shape(worker.home / "store" / path) == shape(head.store.root / path)
    assert (worker.home / "store" / paths[2]).read_bytes() == WEIGHTS
    # Links that the tree's hash does not see: they are not followed, and not changed.
    env = worker.home / "store" / paths[0]
    assert (env / "bin" / "python").readlink() == Path("/bin/sh")
    assert (env / "lib64").readlink() == Path("lib")
    assert os.access(env / "bin" / "tool", os.X_OK)
    assert (env / "lib" / "pkg.libs" / "libx.so").read_text() == "code\n"
    assert Store.is_complete(env)


def test_what_is_there_is_left_alone(head: Head, worker: Settings, transferred: Callable[[], int]) -> None:
    paths = [head.add_env("Echo-1"), head.add_model("net.onnx")]
    head.publish(*paths)
    catch_up(worker)
    assert transferred() > len(WEIGHTS)
    files = [path for path in (worker.home / "store").rglob("*") if path.is_file()]
    before = {file: (file.stat().st_ino, file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files}
    model = head.add_model("other.onnx", b"other weights")
    head.publish(*paths, model)
    assert catch_up(worker) == [model]
    assert transferred() == len(b"other weights") + (head.store.root / NAME).stat().st_size
    assert {file: (file.stat().st_ino, file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files} == before
    assert catch_up(worker) == []


def test_an_environment_without_its_mark_is_fetched_again(head: Head, worker: Settings) -> None:
    env = head.add_env("Echo-1")
    head.publish(env)
    begun = worker.home / "store" / env
    begun.mkdir(parents=True)
    (begun / "stray").write_text("of a build that ended in the middle")
    assert catch_up(worker) == [env]
    assert shape(begun) == shape(head.store.root / env)


def test_files_of_an_earlier_environment_are_linked(
    head: Head, worker: Settings, transferred: Callable[[], int]
) -> None:
    big = "x" * 100_000
    first = head.add_env("Echo-1", same=big)
    head.publish(first)
    catch_up(worker)
    transferred()
    second = head.store.root / "env" / "Echo-2"  # built as base environments are extended: with the base's files
    shutil.copytree(head.store.root / first, second, symlinks=True)
    read_only.make_directories_writable(second)
    (second / "bin" / "new").write_text("new")
    read_only.protect(second)
    head.publish(first, "env/Echo-2")
    assert catch_up(worker) == ["env/Echo-2"]
    envs = worker.home / "store" / "env"
    assert (envs / "Echo-2" / "bin" / "same").samefile(envs / "Echo-1" / "bin" / "same")
    assert transferred() < 5_000
    assert shape(envs / "Echo-2") == shape(second)


def test_a_file_that_only_looks_like_an_earlier_environments_is_fetched(head: Head, worker: Settings) -> None:
    # Packages built reproducibly: another version, the same size and time.
    first, second = head.add_env("Echo-1", version="1.2.3"), head.add_env("Echo-2", version="1.2.4")
    for env in (first, second):
        os.utime(head.store.root / env / "bin" / "version", (1_000_000_000, 1_000_000_000))
    head.publish(first)
    catch_up(worker)
    head.publish(first, second)
    catch_up(worker)
    for env in (first, second):
        assert shape(worker.home / "store" / env) == shape(head.store.root / env)


def test_a_fetch_that_was_cut_off_goes_on(
    head: Head, worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = os.urandom(1 << 20)
    model = head.add_model("net.onnx", weights)
    head.publish(model)
    real = shutil.which("rsync")
    log = tmp_path / "statistics"
    target = worker.home / "store" / model
    with monkeypatch.context() as patch:
        # The link is slow, and the worker is switched off in the middle of the model.
        slow = f'case "$*" in *model*) exec timeout -s TERM 0.5 {real} --bwlimit=1000 "$@";; esac; exec {real} "$@"'
        stub(tmp_path / "slow", patch, slow)
        with pytest.raises(UnreachableError):
            catch_up(worker)
    begun = target.with_name(".pull-net.onnx")
    assert names(target.parent) == [begun.name]
    there = begun.stat().st_size
    assert 0 < there < len(weights)
    stub(tmp_path / "counting", monkeypatch, f'exec {real} --stats "$@" >> {log}')
    assert catch_up(worker) == [model]
    assert names(target.parent) == [".net.onnx.seal", "net.onnx"]
    assert target.read_bytes() == weights
    (literal,) = [line for line in log.read_text().splitlines() if line.startswith("Literal data:")][1:]
    assert int(literal.split()[2].replace(",", "")) <= len(weights) - there + 65536


def test_an_environment_that_was_begun_goes_on(head: Head, worker: Settings, transferred: Callable[[], int]) -> None:
    env = head.add_env("Echo-1", big="x" * 100_000)
    head.publish(env)
    begun = worker.home / "store" / "env" / ".pull-Echo-1"
    shutil.copytree(head.store.root / env, begun, symlinks=True)
    (begun / "modelserve.json").unlink()
    (begun / "bin" / "tool").write_text("#!/b")
    before = (begun / "bin" / "big").stat().st_ino
    assert catch_up(worker) == [env]
    fetched = worker.home / "store" / env
    assert (fetched / "bin" / "big").stat().st_ino == before
    assert shape(fetched) == shape(head.store.root / env)
    assert transferred() < 5_000


@pytest.mark.parametrize("kind", ["env", "model"])
def test_what_was_begun_and_does_not_fit_is_fetched_from_nothing(head: Head, worker: Settings, kind: str) -> None:
    path = head.add_env("Echo-1") if kind == "env" else head.add_model("net.onnx", b"weights")
    head.publish(path)
    source = head.store.root / path
    begun = (worker.home / "store" / path).with_name(f".pull-{source.name}")
    begun.parent.mkdir(parents=True)
    if kind == "env":
        shutil.copytree(source, begun, symlinks=True)
        (begun / "stray").write_text("not in the head's")
    else:  # damaged on this disk, in a way that rsync does not look for
        begun.write_bytes(b"w_ights")
        os.utime(begun, ns=(0, source.stat().st_mtime_ns))
    assert catch_up(worker) == [path]
    assert Store(worker.home / "store").holds(path)
    assert not (worker.home / "store" / path / "stray").exists()
    assert kind == "env" or (worker.home / "store" / path).read_bytes() == b"weights"


def test_a_model_directory_is_fetched_whole(
    head: Head, worker: Settings, transferred: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = head.add_model_directory("bert", weights=WEIGHTS, config=b"{}")
    head.publish(first)
    assert catch_up(worker) == [first]
    assert shape(worker.home / "store" / first) == shape(head.store.root / first)
    transferred()
    second = head.add_model_directory("bert", config=b"[1]")  # beside the same weights
    head.publish(first, second)
    assert catch_up(worker) == [second]
    assert transferred() < 5_000
    assert shape(worker.home / "store" / second) == shape(head.store.root / second)
    monkeypatch.setattr(hashing, "of_file", lambda path: pytest.fail(f"{path} was hashed"))
    assert catch_up(worker) == []  # the links that were made of its files did not make the first one suspect


@pytest.mark.parametrize("edit", ["missing", "additional", "truncated"])
def test_a_model_directory_that_was_changed_here_is_fetched_again(head: Head, worker: Settings, edit: str) -> None:
    path = head.add_model_directory("bert", weights=WEIGHTS, config=b"{}")
    head.publish(path)
    assert catch_up(worker) == [path]
    here = worker.home / "store" / path
    if edit == "missing":
        (here / "sub" / "config").unlink()
    elif edit == "additional":
        (here / "more").touch()
    else:
        os.truncate(here / "sub" / "weights", 1000)
    with pytest.raises(ValueError, match="not the one that was deployed"):
        integrity.require_integrity(str(here))
    assert [catch_up(worker), catch_up(worker)] == [[path], []]
    assert shape(here) == shape(head.store.root / path)


def test_a_model_directory_that_was_cut_off_is_not_there_and_goes_on(
    head: Head, worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = os.urandom(1 << 20)
    path = head.add_model_directory("bert", config=b"{}", weights=weights)
    head.publish(path)
    real, here = shutil.which("rsync"), worker.home / "store" / path
    with monkeypatch.context() as patch:
        slow = f'case "$*" in *model*) exec timeout -s TERM 0.5 {real} --bwlimit=1000 "$@";; esac; exec {real} "$@"'
        stub(tmp_path / "slow", patch, slow)
        with pytest.raises(UnreachableError):
            catch_up(worker)
    assert not here.exists() and not Store(worker.home / "store").holds(path)
    begun = here.with_name(".pull-bert")
    assert 0 < (begun / "sub" / "weights").stat().st_size < len(weights)
    assert catch_up(worker) == [path]
    assert names(here.parent) == [".bert.seal", "bert"]
    assert (here / "sub" / "weights").read_bytes() == weights


def test_models_that_are_named_together_lie_together_on_a_worker(
    head: Head, worker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = (head.add_model("net.onnx"), head.add_model("net.onnx.data", b"data"))
    directory = joined.directory_of([head.store.root / path for path in paths])
    assert directory is not None
    entry = str(directory.relative_to(head.store.root))
    head.publish(*paths, kept=(*paths, entry), sets={entry: paths})
    assert catch_up(worker) == list(paths)
    here = worker.home / "store" / entry
    assert joined.joined([str(worker.home / "store" / path) for path in paths]) == [
        str(here / "net.onnx"), str(here / "net.onnx.data")
    ]  # fmt: skip
    monkeypatch.setattr(hashing, "of_file", lambda path: pytest.fail(f"{path} was hashed"))
    assert catch_up(worker) == []
    head.publish(*paths, kept=paths)
    assert catch_up(worker) == []
    assert not here.exists()
    assert all(Store(worker.home / "store").holds(path) for path in paths)


def test_a_model_that_was_changed_here_is_fetched_again(head: Head, worker: Settings) -> None:
    path = head.add_model("net.onnx")
    head.publish(path)
    here = worker.home / "store" / path
    assert catch_up(worker) == [path]
    here.write_bytes(WEIGHTS[::-1])
    assert [catch_up(worker), catch_up(worker)] == [[path], []]
    assert here.read_bytes() == WEIGHTS


@pytest.mark.parametrize("kind", ["env", "model"])
def test_what_is_damaged_on_the_head_is_refused(head: Head, worker: Settings, kind: str) -> None:
    good = head.add_package("Good", backend="x = 1\n")
    if kind == "env":
        path = head.add_env("Echo-1")
        damaged = head.store.root / path / "bin" / "tool"
    else:
        path = head.add_model("net.onnx", b"weights")
        damaged = head.store.root / path
    head.publish(good, path)
    damaged.write_text("damage")
    said = refused(worker)
    assert said.startswith(f"{path} is damaged in the head's store")
    store = worker.home / "store"
    assert (store / good).is_dir()  # what came before it is there, and stays
    assert not (store / path).exists()
    assert names((store / path).parent) == []


def test_an_environment_made_anew_is_no_damage(head: Head, worker: Settings) -> None:
    # What the message about damage asks for: remove it on the head, and have it built again, which never gives the
    # same bytes.
    env = head.add_env("Echo-1", built="at noon")
    head.publish(env)
    shutil.rmtree(head.store.root / env)
    head.add_env("Echo-1", built="at night")
    head.publish(env)
    assert catch_up(worker) == [env]
    assert shape(worker.home / "store" / env) == shape(head.store.root / env)


def test_what_is_the_heads_own_is_not_served(head: Head, worker: Settings, tmp_path: Path) -> None:
    env = head.add_env("Echo-1")
    head.publish(env)
    private = ["cache/uv/x", "lock/Echo-1.txt", "model_hashes.json", ".manifest.json.x", "env/.pull-Echo-2/x"]
    private += [
        "env/.removed-Echo-3/x",
        "env/.Echo-1.hash",
        "pkg/.Echo-1.17/x",
        "model/0123/.net.onnx.17",
        "set/0123/a",
    ]
    for name in private:
        file = head.store.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("private")
    everything = tmp_path / "everything"
    assert get(head, worker, "", everything) == 0
    there = {path.relative_to(everything).parts[0] for path in everything.rglob("*")}
    assert there == {"env", "pkg", "model", NAME}
    assert not [path for path in everything.rglob("*") if path.is_file() and path.read_bytes() == b"private"]
    assert shape(everything / env) == shape(head.store.root / env)
    command = ["rsync", "--recursive", f"{head.server.url.rsplit('/', 1)[0]}/{rsync_server.FILES_MODULE}/"]
    environment = {**os.environ, "RSYNC_PASSWORD": worker.token_file.read_text().strip()}
    files = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in files.splitlines()} == {".", NAME}
    for name in [*private[2:5], private[-1]]:  # nor to those who know their names
        assert get(head, worker, name, tmp_path / "got") != 0 or not (tmp_path / "got").exists()


def test_nothing_can_be_written_to_the_heads_store(head: Head, worker: Settings, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("{}")
    environment = {**os.environ, "RSYNC_PASSWORD": worker.token_file.read_text().strip()}
    command = ["rsync", str(mine), f"{head.server.url}/{NAME}"]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0
    assert names(head.store.root) == []


def get(head: Head, worker: Settings, name: str, target: Path) -> int:
    environment = {**os.environ, "RSYNC_PASSWORD": worker.token_file.read_text().strip()}
    command = ["rsync", "--recursive", "--links", "--times", "--perms", f"{head.server.url}/{name}", str(target)]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def test_a_wrong_token_is_refused(head: Head, worker: Settings) -> None:
    head.publish(head.add_model("net.onnx"))
    worker.token_file.write_text("another\n")
    said = refused(worker)
    assert "refuses this node" in said
    assert "auth failed" in said
    assert "site.yml" in said
    assert names(worker.home / "store") == []


def test_a_store_that_does_not_answer_is_waited_for(head: Head, worker: Settings) -> None:
    head.publish(head.add_model("net.onnx"))
    head.server.stop()
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{head.server.port} does not answer"):
        catch_up(worker)
    head.server.start()
    assert len(catch_up(worker)) == 1


@contextmanager
def occupied(server: StoreServer) -> Iterator[None]:
    """Hold one of the store's connections."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as other:
        greeting = other.recv(1000)
        other.sendall(greeting.splitlines()[0] + b"\n" + rsync_server.MODULE.encode() + b"\n")
        assert b"AUTHREQD" in other.recv(1000)  # it has the place, and thinks about its password
        yield


@pytest.fixture
def one_at_a_time(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    head.server.stop()
    monkeypatch.setattr(rsync_server, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(sync, "RETRY_S", (0.01, 0.1))
    head.server.start()


def test_a_store_that_serves_others_is_asked_again_until_a_deadline(
    head: Head, worker: Settings, one_at_a_time: None
) -> None:
    model = head.add_model("net.onnx")
    head.publish(model)
    with ThreadPoolExecutor() as pool:
        with occupied(head.server):
            with pytest.raises(BusyError, match=r"served other nodes for 0\.2 s .*max connections"):
                catch_up(worker.model_copy(update={"fetch_timeout_s": 0.2}))
            fetching = pool.submit(catch_up, worker)
            time.sleep(0.5)
            assert not fetching.done()
        assert fetching.result() == [model]


def test_small_files_do_not_wait_for_workers_that_fetch(head: Head, worker: Settings, one_at_a_time: None) -> None:
    published = head.store.root / "gateways" / "targets"
    published.parent.mkdir()
    published.write_text("targets")
    client = StoreClient(worker.model_copy(update={"fetch_timeout_s": 0}), "127.0.0.1", print)
    with occupied(head.server):
        assert client.fetch_file("gateways/targets").read_text() == "targets"


def test_twenty_four_workers_fetch_from_a_store_that_serves_three(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.server.stop()
    monkeypatch.setattr(rsync_server, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(sync, "RETRY_S", (0.05, 0.3))
    head.server.start()
    needed = [head.add_model("net.onnx", WEIGHTS * 4), head.add_package("Echo", backend="x = 1\n")]
    needed += [head.add_env("Echo-1")]
    head.publish(*needed)
    workers = []
    for number in range(24):
        home = tmp_path / f"worker_{number}"
        shutil.copytree(head.server.home / "secrets", home / "secrets")
        workers.append(Settings(home=home))
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=len(workers)) as pool:
        assert list(pool.map(catch_up, workers)) == [needed] * len(workers)
    refused = head.server.log.read_text().count("max connections")
    print(f"\n24 workers, 3 at a time: {time.monotonic() - started:.1f} s, {refused} times refused")
    assert refused > 24  # else hardly anybody was turned away, and nothing is shown


def test_an_outage_after_a_long_wait_has_its_whole_time() -> None:
    attempts = Attempts(busy_s=1000, outage_s=60)
    busy, silent = BusyError("serves others"), UnreachableError("does not answer")
    assert not attempts.is_over(busy, 0)
    assert not attempts.is_over(busy, 500)
    assert not attempts.is_over(silent, 510)
    assert not attempts.is_over(silent, 569)
    assert attempts.is_over(silent, 570)
    assert attempts.is_over(busy, 1000)


def test_a_deploy_waits_for_a_store_that_restarts(
    head: Head, worker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = head.add_model("net.onnx")
    head.publish(model)
    head.server.stop()
    monkeypatch.setattr(sync, "RETRY_S", (0.01, 0.1))
    with ThreadPoolExecutor() as pool:
        fetching = pool.submit(StoreClient(worker, "127.0.0.1", print, outage_s=60).sync)
        time.sleep(0.5)
        assert not fetching.done()
        head.server.start()
    assert fetching.result() == [model]


def test_a_transfer_that_is_cut_off_late_is_tried_again(
    head: Head, worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = head.add_model("net.onnx")
    head.publish(model)
    monkeypatch.setattr(sync, "RETRY_S", (0.01, 0.02))
    cut, real = tmp_path / "cut", shutil.which("rsync")
    reset = "echo 'rsync: read error: Connection reset by peer (104)' >&2; exit 12"
    # The first transfer lasts longer than an outage may.
    stub(tmp_path / "cutting", monkeypatch, f'[ -e {cut} ] || {{ touch {cut}; sleep 1; {reset}; }}; exec {real} "$@"')
    assert StoreClient(worker, "127.0.0.1", print, outage_s=0.5).sync() == [model]


def test_a_head_that_has_published_nothing_is_named(head: Head, worker: Settings) -> None:
    assert "manifest.json" in refused(worker)


def test_a_node_that_is_not_as_the_head_fetches_nothing(
    head: Head, worker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSERVE_IMAGE", "modelserve:1")
    head.publish(head.add_model("net.onnx"), versions=Versions(image="modelserve:2"))
    assert "this node runs image modelserve:1, the head modelserve:2" in refused(worker)
    assert names(worker.home / "store") == []


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        (Versions(image="i:2", python="3.13.1", ray="2.60.0"), "image i:1, the head i:2"),
        (Versions(image="i:1", python="3.13.2", ray="2.60.0"), "Python 3.13.1, the head 3.13.2"),
        (Versions(image="i:1", python="3.13.1", ray="2.61.0"), "Ray 2.60.0, the head 2.61.0"),
    ],
)
def test_what_differs_is_named(versions: Versions, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sync.require_same_versions(versions, Versions(image="i:1", python="3.13.1", ray="2.60.0"))


def test_a_node_that_is_as_the_head_fetches(head: Head, worker: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_IMAGE", "modelserve:1")
    head.publish(head.add_model("net.onnx"), versions=Versions.running())
    assert len(catch_up(worker)) == 1


@pytest.fixture
def small_disk(tmp_path: Path, worker: Settings) -> Iterator[Settings]:
    """A worker's home on a disk of 512 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "modelserve-test", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        shutil.copytree(worker.home, small, dirs_exist_ok=True)
        yield Settings(home=small)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_full_disk_is_named(head: Head, small_disk: Settings) -> None:
    model = head.add_model("net.onnx")
    head.publish(model)
    said = refused(small_disk)
    assert re.fullmatch(
        rf"no space left for {model}: it needs 1\.0MiB, \S+KiB are free at {small_disk.home}/store\. Free some; .*",
        said,
    )
    assert [path for path in (small_disk.home / "store").rglob("*") if path.is_file()] == []


def test_a_full_disk_is_named_by_what_rsync_says(
    head: Head, worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.publish(head.add_model("net.onnx"))
    message = 'rsync: [receiver] write failed on "x": No space left on device (28)'
    stub(tmp_path / "full", monkeypatch, f"echo '{message}' >&2; exit 11")
    assert refused(worker).startswith("no space left for manifest.json")


def test_what_nothing_refers_to_goes_and_what_is_kept_stays(head: Head, worker: Settings) -> None:
    old = [head.add_env("Old-1"), head.add_package("Old", backend="x = 0\n"), head.add_model("old.onnx", b"old")]
    kept = [head.add_env("Kept-1"), head.add_package("Kept", backend="x = 1\n"), head.add_model("kept.onnx", b"kept")]
    new = [head.add_env("New-1"), head.add_package("New", backend="x = 2\n"), head.add_model("new.onnx", b"new")]
    store = worker.home / "store"
    shutil.copytree(head.store.root, store, symlinks=True)
    for path in new:
        shutil.rmtree(store / path) if (store / path).is_dir() else (store / path).unlink()
    head.publish(*new, kept=(*new, *kept))
    assert catch_up(worker) == new
    assert [path for path in (*old, *kept, *new) if (store / path).exists()] == [*kept, *new]
    assert not (store / old[2]).parent.exists()


def test_what_a_fetch_left_behind_goes_when_it_is_not_needed_any_more(head: Head, worker: Settings) -> None:
    new = head.add_env("New-1")
    head.publish(new, kept=(new,))
    begun = worker.home / "store" / "env" / ".pull-Old-1"
    begun.mkdir(parents=True)
    (begun / "big").write_text("x")
    catch_up(worker)
    assert names(begun.parent) == ["New-1"]


def test_a_head_that_keeps_nothing_yet_has_nothing_removed(head: Head, worker: Settings) -> None:
    model = head.add_model("net.onnx")
    head.publish(model, kept=(model,))
    catch_up(worker)
    head.publish()
    catch_up(worker)
    assert (worker.home / "store" / model).exists()


def test_a_manifest_of_the_same_size_and_second_is_noticed(head: Head, worker: Settings) -> None:
    first, second = head.add_model("net_1.onnx", b"one"), head.add_model("net_2.onnx", b"two")
    for model in (first, second):
        head.publish(model)
        os.utime(head.store.root / NAME, (1_000_000_000, 1_000_000_000))
        assert catch_up(worker) == [model]


def test_two_who_fetch_at_once_wait_for_each_other(
    head: Head, worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.publish(head.add_env("Echo-1"), head.add_model("net.onnx"))
    running = tmp_path / "running"
    # rsync takes its time, and says when another one runs beside it.
    script = f'mkdir {running} || echo two >> {tmp_path}/two; sleep 0.1; {shutil.which("rsync")} "$@"; code=$?'
    stub(tmp_path / "slow", monkeypatch, f"{script}; rmdir {running}; exit $code")
    fetched: list[list[str]] = []
    both = [threading.Thread(target=lambda: fetched.append(catch_up(worker))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(map(len, fetched)) == [0, 2]
    assert not (tmp_path / "two").exists()


def publish_secrets(head: Head, *ids: str) -> None:
    settings = Settings(home=head.server.home)
    secret_values.publish(settings, {name: {"HF_TOKEN": f"planted-{name}"} for name in ids}, ())


def test_a_worker_s_replica_gets_its_secrets_and_nothing_stays_on_the_worker(
    head: Head, worker: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "worker"))
    publish_secrets(head, "a", "b")
    before = sorted(worker.home.rglob("*"))
    assert secret_values.read(worker, "127.0.0.1", "a", print) == {"HF_TOKEN": "planted-a"}
    assert sorted(worker.home.rglob("*")) == before
    # What crosses the network and lies in the store is encrypted.
    assert not any(b"planted" in path.read_bytes() for path in head.store.root.rglob("*") if path.is_file())
    with pytest.raises(UserError, match=r"store has no values of these secrets. Apply conf.ini again"):
        secret_values.read(worker, "127.0.0.1", "c", print)


def test_a_replica_waits_for_a_store_that_restarts_and_then_names_it(
    head: Head, worker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_secrets(head, "a")
    monkeypatch.setattr(sync, "RETRY_S", (0.05, 0.1))
    head.server.stop()
    monkeypatch.setattr(secret_values, "OUTAGE_S", 0.2)
    with pytest.raises(UserError, match=r"store at .* does not answer"):
        secret_values.read(worker, "127.0.0.1", "a", print)
    monkeypatch.setattr(secret_values, "OUTAGE_S", 20)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(secret_values.read, worker, "127.0.0.1", "a", print)
        time.sleep(0.2)
        assert not waiting.done()
        head.server.start()
        assert waiting.result(timeout=20) == {"HF_TOKEN": "planted-a"}


def test_a_worker_with_the_token_of_before_is_told_so(head: Head, worker: Settings) -> None:
    publish_secrets(head, "a")
    (file,) = (head.store.root / "secrets").iterdir()
    other = Settings(home=worker.home.parent / "other")
    other.token_file.parent.mkdir(parents=True)
    other.token_file.write_text("another")
    file.write_text(encryption.encrypt(other, "secrets", "{}"))
    with pytest.raises(UserError, match=r"not of this cluster's token. Run site.yml"):
        secret_values.read(worker, "127.0.0.1", "a", print)

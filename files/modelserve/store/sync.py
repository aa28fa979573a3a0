"""Does this node have what it needs? Fetches from the head's store what the manifest names and the node lacks.

The head serves its store by an rsync daemon (``store_server``): files that were begun are gone on with, those an
earlier environment has are linked instead of fetched, and what came is compared with its content hash before it gets
its final name.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelserve import hashing
from modelserve.errors import UserError
from modelserve.settings import Settings
from modelserve.store import integrity, manifest
from modelserve.store.manifest import Content, Manifest, Versions
from modelserve.store.rsync_server import MODULE, PORT, USER
from modelserve.store.store import Store

Progress = Callable[[str], None]
STALL_S = 60
CONNECT_S = 10
# The store serves a few nodes at a time and turns the others away: these ask again, not all in the same moment, for at
# most so long. One file's turn comes within minutes even where 50 nodes fetch an environment.
BUSY_S = 900
RETRY_S = (0.5, 3.0)
LINKED_AGAINST = 8  # earlier environments to link files from; rsync takes 20 at most

# rsync's exit codes, see rsync(1).
_REFUSED, _WRITE_FAILED, _PARTIAL = 5, 11, 23


class Unreachable(UserError):
    """The head's store does not answer, or not now."""


class Busy(Unreachable):
    """The head's store serves as many nodes as it may."""


class Puller:
    """Fetches into this node's store from the head's.

    Args:
        settings: this node's home and token.
        head: the head's host, as this node reaches it.
        progress: gets a line for each piece that is fetched.
        work: where small files come to lie; None: ``<home>/node``.
        outage_s: seconds that a store which does not answer is asked again. One that is busy is asked for ``BUSY_S``.
    """

    def __init__(
        self, settings: Settings, head: str, progress: Progress, work: Path | None = None, outage_s: float = 0
    ) -> None:
        self._outage_s = outage_s
        self._settings = settings
        self._store = Store(settings.home / "store")
        self._work = work or settings.home / "node"
        self._head = head
        self._progress = progress

    def manifest(self) -> Manifest:
        """What the head publishes now.

        Raises:
            UserError: the store does not answer or refuses this node, or what it has is no manifest.
        """
        return Manifest.load(self.bring(manifest.NAME))

    def bring(self, name: str) -> Path:
        """A small file of the head's store as it is now, beside this node's own.

        Raises:
            UserError: the store does not answer or refuses this node, or there is no such file.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        target = self._work / Path(name).name
        # However alike it looks: two can have the same size, and be written within the second that rsync compares.
        self._rsync(name, target, "--ignore-times")
        return target

    def catch_up(self) -> list[str]:
        """Fetch what the manifest names and is not here, and remove what nothing refers to any more.

        Returns:
            The paths that were fetched.

        Raises:
            UserError: this node runs another image than the head, the store does not answer, or the disk is full.
        """
        with self._alone():
            published = self.manifest()
            require_same(published.versions, Versions.here())
            fetched = []
            for content in published.needed:
                if not self._store.holds(content.model_dump()):
                    self._fetch(content)
                    fetched.append(content.path)
            if published.kept:
                for begun in self._store.root.glob("*/.pull-*"):  # all that is needed is here: it was not
                    shutil.rmtree(begun, ignore_errors=True)
                self._store.collect([*published.kept, *(content.path for content in published.needed)])
            return fetched

    def _fetch(self, content: Content) -> None:
        self._progress(f"fetching {content.path}")
        target = self._store.root / content.path
        aside = target.with_name(f".pull-{target.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        is_model = content.path.startswith("model/")
        links = [] if is_model else [f"--link-dest={earlier}" for earlier in self._earlier(target)]
        # A second time, from nothing, where what was begun or linked is not what the head has: rsync compares sizes
        # and times, and another version's file can have both.
        for options in (links, []):
            self._rsync(content.path if is_model else content.path + "/", aside, *options)
            found = hashing.of_file(aside) if is_model else hashing.of_tree(aside)
            if found == content.hash:
                shutil.rmtree(target, ignore_errors=True)
                aside.rename(target)
                if is_model:
                    integrity.seal(target, integrity.mark(target))
                return
            aside.unlink() if is_model else shutil.rmtree(aside)
        raise UserError(
            f"{content.path} is damaged in the head's store: its content's hash is {found}, not {content.hash}",
            f"Remove {target} on the head and deploy again: that makes it anew",
        )

    def _earlier(self, target: Path) -> list[Path]:
        if target.parent.name != "env":
            return []
        complete = [path for path in target.parent.glob("[!.]*") if Store.is_complete(path)]
        return sorted(complete, key=lambda path: path.stat().st_mtime, reverse=True)[:LINKED_AGAINST]

    def _rsync(self, source: str, target: Path, *options: str) -> None:
        url = f"rsync://{USER}@{self._head}:{PORT}/{MODULE}/{source}"
        command = ["rsync", "--recursive", "--links", "--perms", "--times", "--partial", f"--timeout={STALL_S}"]
        command += [f"--contimeout={CONNECT_S}", *options, url, str(target)]
        environment = {**os.environ, "RSYNC_PASSWORD": self._settings.token_file.read_text().strip()}
        started = time.monotonic()
        while True:
            result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if result.returncode == 0:
                return
            problem = self._problem(source, result.returncode, result.stderr)
            patience_s = BUSY_S if isinstance(problem, Busy) else self._outage_s
            if not isinstance(problem, Unreachable) or time.monotonic() - started > patience_s:
                raise problem
            time.sleep(random.uniform(*RETRY_S))

    def _problem(self, source: str, code: int, stderr: str) -> UserError:
        text = next((line.strip() for line in stderr.splitlines() if line.strip()), f"rsync ended with {code}")
        if "No space left" in stderr:
            free = shutil.disk_usage(self._settings.home).free // 2**20
            return UserError(
                f"no space left for {source.rstrip('/')}: {free} MiB are free at {self._store.root}",
                "Free some; the node goes on by itself when there is space",
            )
        if "max connections" in stderr:
            return Busy(
                f"the head's store at {self._head}:{PORT} serves other nodes ({text})",
                "It is asked again for a while; if that is not enough, deploy again: what was fetched stays",
            )
        if code == _REFUSED:
            return UserError(f"the head's store refuses this node: {text}", "Run site.yml: it brings the token")
        if code in (_PARTIAL, _WRITE_FAILED):
            return UserError(f"{source.rstrip('/')} cannot be fetched: {text}", "See 'docker logs modelserve_store'")
        return Unreachable(
            f"the head's store at {self._head}:{PORT} does not answer ({text})",
            "It is waited for. If that lasts: is the head on, and is the port open to this host?",
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # A node that starts and a deploy may want to fetch the same at once.
        self._work.mkdir(parents=True, exist_ok=True)
        with (self._work / "pull.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def require_same(head: Versions, here: Versions) -> None:
    """Refuse a node that runs something else than the head.

    Raises:
        UserError: naming both.
    """
    pairs = [("image", here.image, head.image), ("Python", here.python, head.python), ("Ray", here.ray, head.ray)]
    for what, mine, theirs in pairs:
        if theirs and mine != theirs:
            raise UserError(
                f"this node runs {what} {mine or 'unknown'}, the head {theirs}",
                "Run site.yml: it brings the head's image to every worker",
            )

"""Synchronize a node's store with the head's: fetch the entries that the manifest names and the node lacks.

The head serves its store by an rsync daemon (:mod:`modelserve.store.rsync_server`). An interrupted file is continued, a
file that an earlier environment has is linked instead of fetched, and an entry gets its final name when its content
hash is right.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from modelserve import hashing
from modelserve.errors import UserError
from modelserve.settings import Settings
from modelserve.store import integrity, manifest
from modelserve.store.manifest import Content, Manifest, Versions
from modelserve.store.model_store import remove, stamp
from modelserve.store.rsync_server import FILES_MODULE, MODULE, PORT, USER
from modelserve.store.store import Store
from modelserve.util import read_only
from modelserve.util.disk import free_space, no_space, size_text, space_for
from modelserve.util.endpoints import endpoint
from modelserve.util.files import locked
from modelserve.util.proxies import without_proxies

Progress = Callable[[str], None]
STALL_S = 60
CONNECT_S = 10
# The store serves some nodes at a time and refuses the others, which try again until a deadline
# (``Settings.fetch_timeout_s``). The interval is random, so that they do not all try in the same moment.
RETRY_S = (0.5, 3.0)
LINKED_AGAINST = 8  # earlier environments to link files from; rsync takes 20 at most

SHOWN_SIZE = 100 << 20  # bytes; less is fetched in a moment
NO_SPACE_FIX = "Free some; the node continues by itself when there is space"

# The cluster's workers by name, as Ansible writes them.
WORKERS = "workers.json"

# rsync's exit codes, see rsync(1).
_REFUSED, _WRITE_FAILED, _PARTIAL = 5, 11, 23


class UnreachableError(UserError):
    """Raised when the head's store does not answer."""


class MissingError(UserError):
    """Raised when the head's store does not have a file."""


class FullError(UserError):
    """Raised when this node's disk is full."""


class BusyError(UnreachableError):
    """Raised when the head's store serves as many nodes as it may."""


class Attempts:
    """The time that is left for a request that failed.

    A transfer may run long before it fails, so that the time counts from the first failure. A busy store answers: an
    outage after a long wait in its queue has its whole time.

    Args:
        busy_s: seconds that a busy store is asked.
        outage_s: seconds that a store that does not answer is asked.
    """

    def __init__(self, busy_s: float, outage_s: float) -> None:
        self._busy_s = busy_s
        self._outage_s = outage_s
        self._busy_since: float | None = None
        self._silent_since: float | None = None

    def is_over(self, problem: UnreachableError, now_s: float) -> bool:
        """Return whether a request that failed at ``now_s`` is not to be repeated."""
        if isinstance(problem, BusyError):
            self._silent_since = None
            self._busy_since = now_s if self._busy_since is None else self._busy_since
            return now_s - self._busy_since >= self._busy_s
        self._silent_since = now_s if self._silent_since is None else self._silent_since
        return now_s - self._silent_since >= self._outage_s


class StoreClient:
    """Client of the head's store, for this node's.

    Args:
        settings: this node's data directory and token.
        head: the head's address, as this node reaches it.
        progress: gets a line for each entry that is fetched.
        work: the directory of small files; None takes ``<home>/node``.
        outage_s: seconds that requests to a store that does not answer are repeated.
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
        """Return the head's manifest.

        Raises:
            UserError: the store does not answer or refuses this node, or its manifest is damaged.
        """
        return Manifest.load(self.fetch_file(manifest.NAME))

    def workers(self) -> frozenset[str] | None:
        """Return the names of the cluster's workers; None where the head publishes none.

        Raises:
            UserError: the store does not answer or refuses this node.
        """
        try:
            return frozenset(json.loads(self.fetch_file(WORKERS).read_text()))
        except MissingError:  # a head of the version before, or one whose first workers are about to join
            return None

    def fetch_file(self, name: str) -> Path:
        """Fetch a small file of the head's store and return the path of the copy.

        Raises:
            UserError: the store does not answer or refuses this node, or there is no such file.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        target = self._work / Path(name).name
        # Two versions can have the same size and time: rsync compares whole seconds.
        self._rsync(FILES_MODULE, name, target, "--ignore-times")
        return target

    def sync(self) -> list[str]:
        """Fetch the entries that the manifest names and this node lacks; remove those that nothing refers to.

        Returns:
            The paths of the fetched entries.

        Raises:
            UserError: this node runs another image than the head, the store does not answer, or the disk is full.
        """
        # A node that starts and a deploy can sync at the same time.
        with space_for("what the head serves", self._store.root), locked(self._work / "pull.lock"):
            published = self.manifest()
            require_same_versions(published.versions, Versions.running())
            fetched = []
            for content in published.needed:
                if not self._store.holds(content.path):
                    self._fetch(content)
                    fetched.append(content.path)
            for models in published.sets.values():
                self._store.join_models([self._store.root / model for model in models])
            if published.kept:
                for unneeded in self._store.root.glob("*/.pull-*"):  # all that is needed is complete
                    read_only.remove(unneeded)
                self._store.collect_garbage([*published.kept, *(content.path for content in published.needed)])
            return fetched

    def _fetch(self, content: Content) -> None:
        target = self._store.root / content.path
        temporary = target.with_name(f".pull-{target.name}")
        found = self._earlier(target, content)
        if not found:
            self._require_space(content, temporary)
        size = f" ({size_text(content.size)})" if content.size >= SHOWN_SIZE else ""
        self._progress(f"fetching {content.path}{size}")
        target.parent.mkdir(parents=True, exist_ok=True)
        # rsync compares sizes and times, which another version's file can have too. Then the entry is fetched again,
        # without the files of an interrupted or earlier one.
        for earlier in (found, []):
            self._transfer(content, temporary, earlier)
            files = _listing(temporary) if content.directory else {}
            content_hash = _hash_of(content, temporary, files)
            if content_hash == content.hash:
                remove(target)
                if not content.path.startswith("model/"):
                    read_only.protect(temporary)
                temporary.rename(target)
                if content.path.startswith("model/"):
                    stamp(target, files)
                return
            remove(temporary)
        raise UserError(
            f"{content.path} is damaged in the head's store: its content hash is {content_hash}, not {content.hash}",
            f"Remove {target} on the head and deploy again: that makes it again",
        )

    def _require_space(self, content: Content, temporary: Path) -> None:
        """Raise a UserError where the disk has no space for what is still to be fetched."""
        already = sum(file.stat().st_size for file in (*temporary.rglob("*"), temporary) if file.is_file())
        needed = content.size - already
        if needed > free_space(self._store.root):
            remove(temporary)
            raise no_space(content.path, self._store.root, content.size, NO_SPACE_FIX)

    def _transfer(self, content: Content, temporary: Path, earlier: list[Path]) -> None:
        """Fetch an entry; link the files that it has in common with earlier versions."""
        is_file = content.path.startswith("model/") and not content.directory
        linked = [file for path in earlier for file in path.rglob("*") if file.is_file()] if content.directory else []
        with integrity.stamps_kept(self._store.models, linked):
            source = content.path if is_file else content.path + "/"
            try:
                # A directory gets its last permissions here: rsync writes into it first.
                writable = [] if content.path.startswith("model/") else ["--chmod=Du+w"]
                self._rsync(MODULE, source, temporary, *writable, *(f"--link-dest={path}" for path in earlier))
            except FullError:
                remove(temporary)  # what runs here needs the space more
                raise

    def _earlier(self, target: Path, content: Content) -> list[Path]:
        """Return earlier versions of an environment or of a model that is a directory."""
        if content.path.startswith("env/"):
            complete = [path for path in target.parent.glob("[!.]*") if Store.is_complete(path)]
        elif content.directory:
            complete = [path for path in self._store.models.glob(f"[!.]*/{target.name}") if path.is_dir()]
        else:
            return []
        return sorted(complete, key=lambda path: path.stat().st_mtime, reverse=True)[:LINKED_AGAINST]

    def _rsync(self, module: str, source: str, target: Path, *options: str) -> None:
        url = f"rsync://{USER}@{endpoint(self._head, PORT)}/{module}/{source}"
        command = ["rsync", "--recursive", "--links", "--perms", "--times", "--partial", f"--timeout={STALL_S}"]
        command += [f"--contimeout={CONNECT_S}", *options, url, str(target)]
        environment = {**without_proxies(os.environ), "RSYNC_PASSWORD": self._settings.token_file.read_text().strip()}
        attempts = Attempts(self._settings.fetch_timeout_s, self._outage_s)
        while True:
            result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if result.returncode == 0:
                return
            problem = self._problem(source, result.returncode, result.stderr)
            if not isinstance(problem, UnreachableError) or attempts.is_over(problem, time.monotonic()):
                raise problem
            time.sleep(random.uniform(*RETRY_S))

    def _problem(self, source: str, code: int, stderr: str) -> UserError:
        text = next((line.strip() for line in stderr.splitlines() if line.strip()), f"rsync ended with {code}")
        if "No space left" in stderr or "Disk quota exceeded" in stderr:
            return FullError(no_space(source.rstrip("/"), self._store.root, fix=NO_SPACE_FIX).problems)
        if "max connections" in stderr:
            return BusyError(
                f"the head's store at {endpoint(self._head, PORT)} served other nodes for"
                f" {self._settings.fetch_timeout_s:g} s ({text})",
                "Raise modelserve_fetch_timeout, or deploy again: fetched entries stay",
            )
        if code == _REFUSED:
            return UserError(f"the head's store refuses this node: {text}", "Run site.yml: it installs the token")
        if code == _PARTIAL and re.search(f'link_stat "/?{re.escape(source)}" .*No such file', stderr):
            return MissingError(f"the head's store does not have {source}", "Deploy again: that makes it again")
        if code in (_PARTIAL, _WRITE_FAILED):
            return UserError(f"{source.rstrip('/')} cannot be fetched: {text}", "See 'docker logs modelserve_store'")
        return UnreachableError(
            f"the head's store at {endpoint(self._head, PORT)} does not answer ({text})",
            "The node waits for it. If that lasts, check that the head is on and that the port is open to this host",
        )


def _listing(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a fetched model; nothing where a link in it cannot be followed."""
    try:
        return {name: hashing.of_file(file) for name, file in hashing.model_files(directory)}
    except ValueError:
        return {}


def _hash_of(content: Content, entry: Path, files: dict[str, str]) -> str:
    """Return the content hash of a fetched entry, of which ``files`` has those of a model that is a directory."""
    if content.directory:
        return hashing.of_listing(files.items())
    return hashing.of_file(entry) if content.path.startswith("model/") else hashing.of_tree(entry)


def require_same_versions(head: Versions, node: Versions) -> None:
    """Return when a node runs what the head runs.

    Raises:
        UserError: image, Python or Ray differ.
    """
    pairs = [("image", node.image, head.image), ("Python", node.python, head.python), ("Ray", node.ray, head.ray)]
    for name, of_node, of_head in pairs:
        if of_head and of_node != of_head:
            raise UserError(
                f"this node runs {name} {of_node or 'unknown'}, the head {of_head}",
                "Run site.yml: it installs the head's image on every worker",
            )

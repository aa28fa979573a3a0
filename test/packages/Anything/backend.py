"""Takes any request and gives any kind of answer, and fails in any way that it is told to."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import hashlib
import os
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import modelserve
from starlette.responses import HTMLResponse

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001"
    "a5f645400000000049454e44ae426082"
)


class Anything(modelserve.AlgoBackend):
    """The parameter ``kind`` chooses the answer."""

    def _model_init(self, model_path_lst: list[str] | None = None) -> None:
        self.table = sqlite3.connect(":memory:")  # it works in one thread only
        self.thread = threading.get_ident()

    def check_health(self) -> None:
        """Fail where the file names this process."""
        file = pathlib.Path("/tmp/anything.sick")
        if file.exists() and file.read_text().strip() == str(os.getpid()):
            raise RuntimeError("the file says so")

    def _model_inference(self, params: dict[str, Any]) -> Any:
        kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
            "thread": self.same_thread,
            "bytes": lambda params: PNG,
            "file": lambda params: modelserve.File(__file__, filename="backend.py"),
            "html": lambda params: HTMLResponse("<p>hello</p>", 201, {"X-Own": "yes"}),
            "text": lambda params: self.items(params["count"]),
            "lines": lambda params: ({"item": number} for number in range(params["count"])),
            "events": lambda params: (modelserve.Event(str(number), event="n") for number in range(params["count"])),
            "values": self.values,
            "teapot": self.teapot,
            "sleep": self.sleep,
            "end": lambda params: os._exit(3),
            "crash": self.crash,
            "fatal": self.fatal,
            "variable": lambda params: hashlib.sha256(os.environ[params["name"]].encode()).hexdigest(),
        }
        if params.get("note"):  # who counts how often a request ran
            with pathlib.Path("/tmp/anything.notes").open("a") as stream:
                stream.write(f"{params['note']}\n")
        return kinds.get(params.get("kind", ""), self.describe)(params)

    def describe(self, params: dict[str, Any]) -> Any:
        """Return what was received, files by their name and size."""

        def described(value: Any) -> Any:
            if isinstance(value, modelserve.Upload):
                return {"name": value.filename, "type": value.content_type, "size": len(value.read())}
            return value

        return {key: described(value) for key, value in params.items()}

    def same_thread(self, params: dict[str, Any]) -> Any:
        """Return whether the model was loaded in this thread, which has no running event loop."""
        rows = self.table.execute("select 7").fetchone()
        return {"rows": rows, "same": self.thread == threading.get_ident(), "loop": asyncio.run(asyncio.sleep(0, 1))}

    def values(self, params: dict[str, Any]) -> Any:
        """Return values that JSON has no form of its own for."""
        return {
            "decimal": decimal.Decimal("1.10"),
            "path": pathlib.Path("/a/b"),
            "day": datetime.date(2026, 1, 2),
            "big": 2**70,
            "nan": float("nan"),
            "set": {1},
        }

    def items(self, count: int) -> Iterator[str]:
        """Yield texts a tenth of a second apart, and note when the client has left."""
        try:
            for number in range(count):
                yield f"{number}\n"
                time.sleep(0.1)
        finally:
            pathlib.Path("/tmp/anything.closed").write_text(str(count))

    def sleep(self, params: dict[str, Any]) -> Any:
        """Return this process after some seconds."""
        time.sleep(params["seconds"])
        return os.getpid()

    def teapot(self, params: dict[str, Any]) -> Any:
        """Fail with an error for the client."""
        raise modelserve.HTTPError(418, "this is a teapot", code="teapot", kettle=False)

    def crash(self, params: dict[str, Any]) -> Any:
        """End the process as a fault in native code does."""
        os.kill(os.getpid(), 11)
        time.sleep(60)

    def fatal(self, params: dict[str, Any]) -> Any:
        """Fail for good."""
        raise modelserve.Fatal("the device is lost")

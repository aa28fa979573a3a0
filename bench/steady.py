"""Send requests at a fixed rate and measure the latencies.

A connection that sends its next request after an answer loads a slow server less, and hides the time that a client
would have waited. Here each request has a scheduled time, and its latency counts from that time.
"""

from __future__ import annotations

import asyncio
import json
import math
import urllib.parse
from collections.abc import Sequence
from typing import Any

from wrk import Load

MOST_CONNECTIONS = 256
TIMEOUT_S = 10


def load(url: str, bodies: Sequence[Any], rate: float, seconds: float) -> Load:
    """Send ``rate`` requests a second to ``url`` for ``seconds``, with each of ``bodies`` in turn as JSON.

    Returns:
        The load; its ``rate`` is the requested one.
    """
    latencies = answers(url, bodies, rate, seconds)
    good = latencies.pop(200, [])
    p50, p99 = (percentile(good, share) * 1000 for share in (50, 99))
    return Load(rate, p50, p99, sum(map(len, latencies.values())))


def answers(url: str, bodies: Sequence[Any], rate: float, seconds: float) -> dict[int, list[float]]:
    """Send requests as ``load`` does; return the sorted latencies in seconds by HTTP status, 0 for no answer."""
    return asyncio.run(_Run(url, bodies).run(rate, int(rate * seconds)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that ``share`` percent of ``ordered`` do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)] if ordered else math.nan


class _Run:
    def __init__(self, url: str, bodies: Sequence[Any]) -> None:
        target = urllib.parse.urlsplit(url)
        self._address = (target.hostname or "127.0.0.1", target.port or 80)
        self._requests = [_request(target.path, target.netloc, json.dumps(body).encode()) for body in bodies]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = asyncio.Semaphore(MOST_CONNECTIONS)
        self._answers: dict[int, list[float]] = {}

    async def run(self, rate: float, count: int) -> dict[int, list[float]]:
        loop = asyncio.get_running_loop()
        started = loop.time() + 0.1
        tasks = []
        for number in range(count):
            scheduled = started + number / rate
            if (early := scheduled - loop.time()) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(self._send(self._requests[number % len(self._requests)], scheduled)))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()
        return {status: sorted(latencies) for status, latencies in self._answers.items()}

    async def _send(self, request: bytes, scheduled: float) -> None:
        async with self._open:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    status = await self._exchange(request)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                status = 0
        self._answers.setdefault(status, []).append(asyncio.get_running_loop().time() - scheduled)

    async def _exchange(self, request: bytes) -> int:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            fields = dict(line.split(b":", 1) for line in head[1:] if b":" in line)
            await _body(reader, fields)
        except BaseException:
            writer.close()
            raise
        if b"close" in fields.get(b"connection", b""):
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[0].split()[1])


async def _body(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> None:
    if b"content-length" in fields:
        await reader.readexactly(int(fields[b"content-length"]))
        return
    if b"chunked" not in fields.get(b"transfer-encoding", b""):
        raise ValueError("an answer without a length")
    while size := int((await reader.readline()).partition(b";")[0], 16):
        await reader.readexactly(size + 2)
    await reader.readline()


def _request(path: str, host: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body

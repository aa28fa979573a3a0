"""Errors of CUDA after which every later call in the process fails.

After an illegal access, a device-side assert or a launch failure the process has lost the device. An allocation that
fails is no such error.
"""

from __future__ import annotations

import asyncio
import re
import sys

from modelserve.replica.threads import in_own_thread

#: Time in seconds within which a device must answer after an error.
ANSWER_LIMIT_S = 5.0
_ERROR = re.compile(r"CUDA error|CUBLAS_STATUS_EXECUTION_FAILED")
_OUT_OF_MEMORY = re.compile(r"out of memory", re.IGNORECASE)


def is_error(error: BaseException) -> bool:
    """Return whether an exception is an error of CUDA, other than of a full memory."""
    text = str(error)
    return bool(_ERROR.search(text)) and not _OUT_OF_MEMORY.search(text)


async def is_lost() -> bool:
    """Return whether the process has lost its device: torch uses CUDA, and waiting for the device fails or hangs."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return False
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            await in_own_thread(cuda.synchronize)
    except Exception:  # whatever it raises: the device does not answer
        return True
    return False

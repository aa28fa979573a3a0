#!/usr/bin/env python3
"""Does a running server answer on a route? Sends one request and checks the answer.

Set the values below, or pass them as options:

    python3 test/server_test.py
    python3 test/server_test.py --url http://127.0.0.1:666/embed --params '{"sentence": "a cat"}'
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request

URL = "http://127.0.0.1:666/extract"
METHOD = "GET"
PARAM_DICT = {"text": "a good day"}
TIMEOUT_S = 60


def main() -> int:
    """Send the request; returns 0 when the answer has status 1."""
    parser = argparse.ArgumentParser(description="Send one request to a served algorithm and check the answer.")
    parser.add_argument("--url", default=URL)
    parser.add_argument("--method", default=METHOD)
    parser.add_argument("--params", default=json.dumps(PARAM_DICT), help="the request, as JSON")
    options = parser.parse_args()

    request = urllib.request.Request(
        options.url, options.params.encode(), {"Content-Type": "application/json"}, method=options.method
    )
    started = time.perf_counter()
    try:
        # No proxy: the server is on your own network.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        print(
            f"error: {options.url} answered {error.code}: {error.read()[:500].decode(errors='replace')}",
            file=sys.stderr,
        )
        return 1
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        print(f"error: no answer from {options.url}: {reason}. See `make status`", file=sys.stderr)
        return 1
    print(json.dumps(answer)[:2000])
    ok = answer.get("status") == 1
    print(f"{options.url}: {'passed' if ok else 'FAILED'} after {(time.perf_counter() - started) * 1000:.0f} ms")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())

#!/usr/bin/env python3
"""Does a running server answer on a route? Sends one request and checks the answer.

Set the values below, or pass them as options:

    python3 test/server_test.py
    python3 test/server_test.py --url http://127.0.0.1:666/embed --params '{"sentence": "a cat"}'
    MODELSERVE_KEY=... python3 test/server_test.py --url https://10.0.0.10:666/embed --ca modelserve-ca.pem
"""

import argparse
import json
import os
import ssl
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
    parser.add_argument("--ca", metavar="FILE", help="for https: the CA to trust ('modelserve certificate' prints it)")
    options = parser.parse_args()

    headers = {"Content-Type": "application/json"}
    if os.environ.get("MODELSERVE_KEY"):  # not an option: others see those in the list of processes
        headers["X-API-Key"] = os.environ["MODELSERVE_KEY"]
    request = urllib.request.Request(options.url, options.params.encode(), headers, method=options.method)
    started = time.perf_counter()
    try:
        # No proxy: the server is on your own network.
        context = ssl.create_default_context(cafile=options.ca) if options.url.startswith("https:") else None
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        opener = urllib.request.build_opener(*handlers)
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

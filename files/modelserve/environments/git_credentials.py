"""Answer git's question for a password from the netrc file that ``NETRC`` names: git reads no other than the user's.

See https://git-scm.com/docs/git-credential: git starts it with "get" and the host on standard input.
"""

from __future__ import annotations

import netrc
import os
import sys


def answer(question: str, file: str) -> str:
    """Return the user and the password of the host that git asks for; nothing where the file has no entry.

    Args:
        question: lines ``key=value``.
        file: path of the netrc file.
    """
    asked = dict(line.split("=", 1) for line in question.splitlines() if "=" in line)
    entry = netrc.netrc(file).authenticators(asked.get("host", "").partition(":")[0])
    return f"username={entry[0]}\npassword={entry[2]}\n" if entry else ""


if __name__ == "__main__" and sys.argv[1:] == ["get"]:
    sys.stdout.write(answer(sys.stdin.read(), os.environ["NETRC"]))

"""What rsync starts in place of ssh: passes its end of the transfer to the action ``upload``, which has the connection.

    upload_relay.py FD HOST COMMAND ...

FD is a socket that rsync inherited from the action. The relay sends the command and its own standard input and output
over it, and ends with the exit status that comes back. No byte of the transfer passes through the relay.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main(arguments: list[str]) -> int:
    """Hand over the command and both streams, and return the command's exit status."""
    number, _, *command = arguments
    with socket.socket(fileno=int(number)) as action:
        socket.send_fds(action, [json.dumps(command).encode()], [0, 1])
        # rsync must see the end of the host's output when the action closes it, whatever this process does.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):
            os.dup2(nothing, stream)
        status = action.recv(1)
    return status[0] if status else 255


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Printing of errors: one that all processes of a launcher raise alike is printed once, by the main process.

The processes compare their messages through the key-value store of `torchrun`, which `accelerate launch` uses too: it
exists before the processes join and after one of them has failed. Other launchers have no store that outlives a
process, so there each process prints its message.
"""

import datetime
import os
import sys

from ..processes import is_main_process, launched_processes

# by which processes may differ in the time of the same error; the message of one process alone is delayed by it
WAIT = datetime.timedelta(seconds=10)


def print_error(message: str) -> None:
    """Print a message on stderr, unless this is not the main process and the main process prints the same."""
    if launched_processes() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        print(message, file=sys.stderr, flush=True)
    elif is_main_process():
        # first of all, because the launcher ends this process as soon as another one has ended
        print(message, file=sys.stderr, flush=True)
        exchange_with_main_process(message)
    elif exchange_with_main_process(message) != message:
        print(message, file=sys.stderr, flush=True)


def exchange_with_main_process(message: str) -> str | None:
    """The message of the main process, which stores it for the others; None if it has none within `WAIT`."""
    from torch.distributed import DistError, TCPStore

    key = f"umt/error of the main process/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=WAIT)
        if is_main_process():
            store.set(key, message)
            return message
        store.wait([key], WAIT)
        return store.get(key).decode()
    except DistError:  # no message in time, or the launcher is gone
        return None

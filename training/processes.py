"""The processes of a launcher such as `torchrun`, `accelerate launch` or MPI.

The command line imports this module before a command runs, so torch and accelerate are imported by functions.
"""

import multiprocessing
import os
from typing import Any

# of torchrun, then of MPI
COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


def launched_processes() -> int:
    """The number of processes that the launcher states; 1 without a launcher."""
    return next((int(os.environ[name]) for name in COUNTS if name in os.environ), 1)


def is_main_process() -> bool:
    """Whether this is the first process of the launcher, or was started without a launcher."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0) == 0


def fresh_start_method(module: str) -> str:
    """How `multiprocessing` starts processes that have neither the threads nor the locks of this one.

    Where the platform can fork, they are forked from a process that imports `module` once for all of them; elsewhere
    they are spawned.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload([module])
    return "forkserver"


def join_processes(device: Any, **options: Any) -> Any:
    """The `PartialState` of this process among the processes of a launcher, of which each has a part of the work.

    Unusual: accelerate joins processes on a CPU only if it is asked for one, also on a machine without an accelerator;
    otherwise each process is alone, and does all of the work.

    Args:
        device: the `torch.device` of this process's computation.
        options: of the process group, such as `timeout`; without effect if the process has joined before.

    Raises:
        ValueError: the launcher states more processes than this one has joined.
    """
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", **options)
    require_joined(state.num_processes)
    return state


def require_joined(num_processes: int) -> None:
    """Raise a ValueError if the launcher states more processes than the `num_processes` that this one has joined."""
    if launched_processes() > num_processes:
        raise ValueError(
            f"The launcher started {launched_processes()} processes, but this one has joined {num_processes}, so that "
            "each would do the work of all. Start them with torchrun or accelerate launch, on a device with process "
            "groups; in a script for CPUs, create `accelerate.PartialState(cpu=True)` first."
        )

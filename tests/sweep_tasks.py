"""Tasks for the tests of sweeps: workers import them from here. Each execution leaves a file, to be counted."""

import os
import signal
import sys
import time
import uuid
from pathlib import Path

from hwlimits.sweep import Result

NOT_A_FUNCTION = 3


def act(settings, folder):
    """The square of `n`; `do` says what else happens, `log` where executions are counted."""
    Path(settings["log"], f"{settings['n']}-{uuid.uuid4().hex}").touch()
    do, been = settings.get("do"), folder / "been"
    print("printed by", settings["n"], flush=True)
    if do == "raise":
        raise ValueError(f"no square of {settings['n']}\nis known")
    if do == "exit":
        sys.exit("leaving")
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "die once" and not been.exists():
        been.write_text("was here")
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "raise once" and not been.exists():
        been.write_text("was here")
        raise ValueError("not yet")
    if do == "wait":
        Path(settings["log"], f"pid-{os.getpid()}").touch()
        time.sleep(600)
    time.sleep(settings.get("seconds", 0))
    row = {"square": settings["n"] ** 2, "resumed": been.exists(), "threads": threads()}
    return Result(row, {"n.txt": str(settings["n"]).encode(), "zeros.bin": bytes(100)})


def threads():
    """The largest pool of threads that NumPy has here, and what the environment says of pools to come."""
    import numpy  # noqa: F401 - its pool is what is looked at
    from threadpoolctl import threadpool_info

    return [max(pool["num_threads"] for pool in threadpool_info()), os.environ.get("TF_NUM_INTRAOP_THREADS")]


def executions(folder, n=None):
    """How often a task ran, of that `n` or of any."""
    return len(
        [name for name in os.listdir(folder) if not name.startswith("pid") and n in (None, int(name.split("-")[0]))]
    )

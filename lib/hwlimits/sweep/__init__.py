"""Many runs of one function: each combination of settings is a task on a cluster of processes, here or elsewhere.

A *task* is a plain function in a module: `task(settings, folder)`. `settings` is a dict of values that JSON can
hold; `folder` is the task's own place, where it may leave what it needs to go on if it is interrupted. It returns a row
of results (a dict), or a `Result`: a row, and files as bytes by name.

    settings = grid(width=[8, 16, 32], seed=[0, 1, 2], epochs=10)     # nine settings
    done = run("my_module:train", settings, "build/sweeps/widths")    # a process for each core of this computer
    [(d.settings["width"], d.row["accuracy"]) for d in done]          # in the order that was asked

What can go wrong in hours of work, and what happens then:

- A finished result is written at once, whole or not at all, into folder/<key>/result.json, its files beside it. The key
  is computed from the task's name and its settings, so any later run finds it, and never computes it again. A result
  that is damaged is moved aside, and made again.
- A task that raises does not stop the others. At the end one SweepError names what failed, and the same call tries only
  that again. Each task's own folder is folder/work/<key>, and what it printed is in folder/work/<key>.log.
- A worker that is killed is replaced, and its task starts again. A task whose workers die each time is tried once more
  at the end, when it has the whole cluster to itself, and then has failed.
- Ctrl-C, or a computer that is switched off: the same call goes on from there.
- Two sweeps in one folder at the same time: a point that one of them computes, the other waits for.

With `scheduler="tcp://host:port"` the same tasks run on a Dask cluster that is there already (`dask scheduler`, and
`dask worker tcp://host:port --nthreads 1` on each machine). Its workers need the same hwlimits and Python, no common
disk: rows and files come back over the network, and are written here. A worker keeps a task's own folder, and its
result until it is written here, in its cache (HWLIMITS_CACHE). Who can reach a scheduler can run any program on its
workers: use one on a network that you trust.
"""

from hwlimits.sweep.results import Done, Result
from hwlimits.sweep.runs import run
from hwlimits.sweep.settings import SweepError, grid, read_grid

__all__ = ["Done", "Result", "SweepError", "grid", "read_grid", "run"]

"""Where tasks run: processes of this computer, or a Dask cluster that is there already."""

from __future__ import annotations

import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

from hwlimits.machine.processor import usable_cores
from hwlimits.sweep.settings import SweepError, one_line
from hwlimits.sweep.worker import ONE_THREAD

ANSWER_WITHIN_S = 5  # a scheduler that is there answers in milliseconds
DEATHS = 1  # a task may lose this many workers of a local cluster; with the next one it has failed


@contextmanager
def local(workers: int | None, tasks: int) -> Iterator:
    """A client of a cluster of processes on this computer, one thread each, which nobody else can reach.

    By default there is one process for each core that can be used, and never more than there are tasks.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": DEATHS,
        "distributed.scheduler.worker-ttl": None,  # a task may keep its process busy; its death is seen all the same
        "distributed.nanny.pre-spawn-environ": {},  # would stay in this process's environment
        "distributed.worker.daemon": False,  # a task may start processes
    }
    with _environment_kept(), _quiet(), dask.config.set(settings), ExitStack() as stack:
        try:
            cluster = LocalCluster(
                n_workers=min(workers or usable_cores(), tasks),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # any free port: with None it is 8787, which may be taken
                memory_limit=0,
                silence_logs=logging.CRITICAL,
                env=ONE_THREAD,
            )
            stack.callback(cluster.close)
            client = Client(cluster, set_as_default=False, timeout=ANSWER_WITHIN_S)
            stack.callback(client.close)
            client.register_plugin(_plugin())
        except (OSError, RuntimeError, TimeoutError) as error:
            raise SweepError(
                f"no workers could be started on this computer ({one_line(error)}); in a program of your own, the call "
                "must stand below `if __name__ == '__main__':`"
            ) from error
        try:
            yield client
        except BaseException:
            _kill(cluster)  # what runs would be waited for
            raise


def _plugin():
    from distributed import WorkerPlugin

    class Settle(WorkerPlugin):
        """On every worker, those that replace others, too."""

        name = "hwlimits-sweep"

        def setup(self, worker):
            from hwlimits.sweep.worker import settle

            settle()

    return Settle()


def _kill(cluster) -> None:
    for nanny in list(cluster.workers.values()):
        nanny.auto_restart = False
        with suppress(Exception):
            os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def remote(address: str) -> Iterator:
    """A client of the cluster whose scheduler is at that address. Raises SweepError if none answers."""
    with _quiet():
        try:
            _expect_answer(address)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on other versions: they are looked at more closely soon
                client = _connected(address)
        except (OSError, TimeoutError, ValueError, TypeError, ImportError, RuntimeError) as error:
            raise SweepError(
                f"no Dask scheduler answers at {address} ({one_line(error)}): "
                "start one with `dask scheduler`, and give its address as tcp://host:port; without one, tasks run on "
                "this computer"
            ) from None
        with client:
            yield client


def _connected(address: str):
    """A client; one that can't connect is closed here.

    Left to itself it would be closed when garbage is collected, perhaps while the next client is made and holds a lock
    that closing needs: both would wait for ever.
    """
    from distributed import Client

    client = Client.__new__(Client)
    try:
        client.__init__(address, timeout=ANSWER_WITHIN_S, set_as_default=False)
    except BaseException:
        with suppress(Exception):
            client.close(timeout=ANSWER_WITHIN_S)
        raise
    return client


def _expect_answer(address: str) -> None:
    """Raise OSError or TimeoutError if something listens there and says nothing: distributed would wait for ever.

    A scheduler greets whoever connects. Other protocols than TCP wait for a greeting; these are left to distributed.
    """
    parts = urlsplit(address)
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        with socket.create_connection((parts.hostname, parts.port), timeout=ANSWER_WITHIN_S) as connection:
            if not connection.recv(1):
                raise ConnectionError("what listens there hung up")


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what distributed adds to this process's environment for its workers (PYTHONHASHSEED, __DASK_PARENT_PID)."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what distributed logs to itself: what matters of it is said in the sweep's own sentences."""
    import distributed  # noqa: F401 - its loggers are made when it is imported

    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    before = [(logger, logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, _, disabled in before:
            logger.disabled = disabled

"""Where the runs of a batch are executed: on this machine, or on a cluster, which may lose machines."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib
from tqdm.auto import tqdm

from mmlib.batch.suites import Job
from mmlib.notebook.parameters import BadParameter

_LOOK = 5.0  # seconds between two looks at a cluster whose runs go on


class ClusterLost(RuntimeError):
    """The cluster's scheduler is gone in the middle of a batch."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: the workers that ran this job died, one after another."""

    job: Job
    why: str


@dataclass(frozen=True)
class Backend:
    """Where runs are executed: "local" (processes of this machine, or a "dask" or "ray" cluster with machines that see
    the same files under the same paths). `address` is the cluster's; without one, the library's own default."""

    kind: str = "local"
    address: str = ""
    workers: int = 1

    @contextlib.contextmanager
    def parallel(self) -> Iterator[Callable[[Iterable[Any]], Iterable[Any]]]:
        """A function of joblib's delayed calls that, except with Ray, yields their results as they complete."""
        with contextlib.ExitStack() as stack:
            if self.kind == "dask":
                distributed = _required("distributed", "dask")
                try:
                    client = stack.enter_context(distributed.Client(self.address or None))
                except (OSError, ValueError) as error:
                    raise BadParameter(f"No Dask scheduler answers at {self.address!r}: {error}") from error
                yield partial(_on_dask, client)
                return
            if self.kind == "ray":
                ray = _required("ray", "ray")
                ray.init(address=self.address or None, ignore_reinit_error=True)
                stack.callback(ray.shutdown)
                _required("ray.util.joblib", "ray").register_ray()
                count = max(1, int(ray.cluster_resources().get("CPU", 1)))
                stack.enter_context(joblib.parallel_config("ray"))
            else:  # a run is a process of its own; a thread is enough to watch it
                count = self.workers
                stack.enter_context(joblib.parallel_config("threading"))
            as_they_come = "list" if self.kind == "ray" else "generator_unordered"  # which Ray does not support
            yield joblib.Parallel(count, batch_size=1, pre_dispatch=2 * count, return_as=as_they_come)


def _on_dask(client: Any, calls: Iterable[Any]) -> Iterator[Any]:
    """The results of these calls, or `Lost` for their first argument. Without joblib, whose backend for Dask waits for
    ever where a call fails with its worker. Raises ClusterLost."""
    from distributed import KilledWorker, wait

    waiting = {client.submit(function, *given, pure=False, **named): given for function, given, named in calls}
    alone = False
    while waiting:
        try:
            for future in wait(list(waiting), timeout=_LOOK, return_when="FIRST_COMPLETED").done:
                job = waiting.pop(future)[0]
                try:
                    yield future.result()
                except KilledWorker as error:
                    yield Lost(job, f"{error.allowed_failures + 1} workers died while they ran it.")
        except TimeoutError:
            if alone != (alone := not client.nthreads()):
                tqdm.write(f"{len(waiting)} wait for a worker: the cluster has none." if alone else "It has one again.")
        except CancelledError as error:
            raise ClusterLost(f"The connection to Dask's scheduler at {client.scheduler.address} was lost.") from error


def _required(module: str, package: str) -> Any:
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise BadParameter(
            f"--backend {package} needs a package that is not installed: pip install "
            f"{'dask distributed' if package == 'dask' else package}"
        ) from error

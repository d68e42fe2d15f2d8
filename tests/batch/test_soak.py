"""A night in minutes: MMLIB_SOAK=500 runs as many tiny notebooks two at a time, and nothing may grow on the way."""

import os
import time

import psutil
import pytest
from conftest import WITHOUT_JUPYTER

from mmlib.batch import execution

COUNT = int(os.environ.get("MMLIB_SOAK", 0))
TINY = """import time
claims = [{"statement": "it ran", "measured": "1", "verdict": "holds", "estimate": None}]
runs = [{"method": "erm", "seed": seed, "target accuracy": 0.5} for seed in range(8)]
record = {"title": "tiny", "claims": claims, "runs": runs, "environment": {}}"""


@pytest.mark.skipif(not COUNT, reason="takes minutes: MMLIB_SOAK=500")
def test_a_long_batch_is_as_fast_and_as_small_at_its_end_as_at_its_beginning(kit, monkeypatch):
    monkeypatch.setattr(execution, "RUNNER", WITHOUT_JUPYTER)
    kit.notebook("01_tiny", TINY, "number: int = 0  # which")
    process = kit.start("--jobs", "2", "-p", f"number={list(range(COUNT))}")
    batch, seen, before = psutil.Process(process.pid), [], -1
    while process.poll() is None:
        done = len(list(kit.out.glob("[!.]*")))
        if done >= before + COUNT // 50:
            before = done
            try:
                facts = batch.memory_info().rss / 2**20, batch.num_fds(), len(batch.children()), batch.num_threads()
            except psutil.Error:  # it ended just now
                break
            seen.append((done, time.monotonic(), *facts))
        time.sleep(0.1)
    assert process.communicate() and process.returncode == 0 and len(kit.results()) == COUNT
    quarter = len(seen) // 4
    first, last = seen[quarter : 2 * quarter], seen[-quarter:]

    def pace(part):
        return (part[-1][1] - part[0][1]) / (part[-1][0] - part[0][0])

    def most(part, place):
        return max(one[place] for one in part)

    for name, part in {"second": first, "last": last}.items():
        facts = [most(part, place) for place in (2, 3, 4, 5)]
        print(f"{name} quarter: {pace(part):.2f} s a run; MiB, handles, processes, threads at most: {facts}")
    assert pace(last) < 1.5 * pace(first)
    assert most(last, 2) < most(first, 2) + 0.1 * COUNT, "MiB: what results hold, and no more"
    for place, what in ((3, "file handles"), (4, "processes"), (5, "threads")):
        assert most(last, place) < most(first, place) + 10, what  # those of the runs of that moment differ

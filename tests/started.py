"""`python -m mmlib` as a process of its own, without the seconds that its imports take each time."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")  # a process with nothing but these imports; each batch is its fork
_FORKS.set_forkserver_preload(["pytest", "mmlib.__main__", "mmlib.batch.run", "mmlib.batch.classroom"])


class Started:
    """A command that was started, with the part of Popen's interface that the tests need. `runner` executes its
    notebooks; what it prints goes to files in `folder`."""

    def __init__(self, arguments: Sequence[str], runner: Sequence[str], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._said = [folder / name for name in ("stdout", "stderr")]
        self._process = _FORKS.Process(
            target=_command, args=(arguments, runner, self._said, dict(os.environ)), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> list[str]:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("mmlib", timeout)
        return [path.read_text() for path in self._said]


def _command(
    arguments: Sequence[str], runner: Sequence[str], said: Sequence[Path], environment: dict[str, str]
) -> None:
    os.environ.clear()  # it is that of the time at which the first process was started
    os.environ.update(environment)
    for stream, path in zip((sys.stdout, sys.stderr), said, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    from mmlib.__main__ import main
    from mmlib.batch import execution

    execution.RUNNER = runner
    sys.exit(main(arguments))

"""Finding and ending whole process trees: every process inherits a mark in its environment, whatever its parent."""

import psutil

MARK = "MMLIB_RUN"


def marked(mark: str, spare: int | None = None) -> list[psutil.Process]:
    """This machine's processes whose mark starts with `mark`, except the process `spare`. A child keeps the mark of
    its parent when the parent dies and another process adopts it, which a walk down the tree would miss."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(mark) and process.pid != spare:
                found.append(process)
        except psutil.Error:  # another user's, or gone
            continue
    return found


def kill_marked(mark: str, spare: int | None = None) -> None:
    """Kill these processes, and those they start meanwhile. Raises ValueError for an empty mark."""
    if not mark:
        raise ValueError("An empty mark would match every process.")
    for _ in range(5):
        found = marked(mark, spare)
        if not found:
            return
        for process in found:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(found, timeout=5)

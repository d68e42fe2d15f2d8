"""Finding and ending whole process trees: every process inherits a mark in its environment, wherever it was moved."""

import psutil

MARK = "MMLIB_RUN"


def marked(mark: str, spare: int | None = None) -> list[psutil.Process]:
    """This machine's processes whose mark starts with `mark`, but for the process `spare`. A child keeps the mark of
    its parent when the parent dies and another process takes it over, which a walk down the tree would miss."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(mark) and process.pid != spare:
                found.append(process)
        except psutil.Error:  # somebody else's, or gone
            continue
    return found


def kill_marked(mark: str, spare: int | None = None) -> None:
    """Kill them, and what they start meanwhile."""
    if not mark:
        raise ValueError("An empty mark would be everybody's.")
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

"""Copies of the notebooks to work in: as they are, or without the solutions of their exercises. What one does in a copy
changes no file of the kit, and is never overwritten."""

import ast
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mmlib.batch.suites import NOTEBOOKS
from mmlib.exercises.checking import STUB


def write(folder: Path, solutions: bool) -> list[Path]:
    """Write all notebooks into a folder, which is made, with or without solutions. Raises FileExistsError, with nothing
    written, where one of them is already there: somebody may have worked in it."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file. Name a folder.")
    paths = {source: folder / source.name for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if there := [path.name for path in paths.values() if path.exists()]:
        raise FileExistsError(
            f"{folder.resolve()} already has {', '.join(there)}, perhaps with somebody's work. "
            "Move them away, or choose another folder."
        )
    editions = {path: nbformat.read(source, as_version=4) for source, path in paths.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, notebook in editions.items():
        nbformat.write(notebook if solutions else without_solutions(notebook), path)
    return list(paths.values())


def without_solutions(notebook: NotebookNode) -> NotebookNode:
    """The student's edition of a notebook: stubs in place of solutions, folded hints, nothing executed."""
    cells = []
    for cell in notebook.cells:
        tags, source = cell.metadata.get("tags", []), cell.source
        if "solution" in tags:
            source, tags = stubs(source), ["exercise"]
        elif "hint" in tags:
            source = f"<details><summary>A hint</summary>\n\n{source.removeprefix('Hint: ')}\n\n</details>"
        kind = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        cells.append(kind(source, id=cell.id, metadata={"tags": tags} if tags else {}))
    kernel = {key: notebook.metadata[key] for key in ("kernelspec", "language_info") if key in notebook.metadata}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def stubs(solution: str) -> str:
    """Functions without what is inside: signature, docstring, and an error that says that they are not written yet.
    Raises a ValueError for a solution that holds anything else, or a function without a docstring."""
    lines, written = solution.splitlines(), []
    for node in ast.parse(solution).body:
        if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node):
            raise ValueError(f"A solution holds functions with docstrings alone, not: {ast.unparse(node)[:60]}")
        first = min(part.lineno for part in (node, *node.decorator_list))
        kept = "\n".join(lines[first - 1 : node.body[0].end_lineno])
        written.append(f'{kept}\n    raise NotImplementedError("{node.name} {STUB}")  # your lines instead')
    return "\n\n\n".join(written)

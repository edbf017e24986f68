"""A Sphinx source parser for notebooks: run, then read as Markdown with what the cells gave."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from nbclient import NotebookClient
from nbformat import NotebookNode
from sphinx.application import Sphinx

SECONDS_A_CELL = 300


def as_markdown(notebook: NotebookNode) -> str:
    """Return the cells as one Markdown text: prose, code, and what the code printed and drew."""
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.source:
            parts += [_fenced("python", cell.source), *_outputs(cell.outputs)]
    return "\n\n".join(parts)


def _outputs(outputs: list[NotebookNode]) -> Iterator[str]:
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    if printed:
        yield _fenced("text", printed.rstrip())
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            picture = data["image/png"].replace("\n", "")
            yield f"![What the code above draws](data:image/png;base64,{picture})"
        elif "text/html" in data:
            yield _fenced("{raw} html", data["text/html"])
        elif "text/plain" in data:
            yield _fenced("text", data["text/plain"])


def _fenced(language: str, text: str) -> str:
    return f"``````{language}\n{text}\n``````"


class NotebookParser(MystParser):
    """Reads notebooks; with ``run_notebooks`` off they are shown without outputs."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        notebook, env = nbformat.reads(inputstring, as_version=4), document.settings.env
        if env.config.run_notebooks:
            place = {"metadata": {"path": str(Path(env.srcdir))}}
            NotebookClient(notebook, timeout=SECONDS_A_CELL, resources=place).execute()
        super().parse(as_markdown(notebook), document)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("run_notebooks", True, "env", bool)
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

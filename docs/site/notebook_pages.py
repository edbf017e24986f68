"""A Sphinx source parser for notebooks: run, then read as Markdown with what the cells gave."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

SECONDS_A_CELL = 300


def executed(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a notebook with its outputs, run from `folder` by a fresh kernel."""
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.from_dict(notebook)
    NotebookClient(
        node, timeout=SECONDS_A_CELL, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return node


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return the cells as one Markdown text: prose, code, and what the code printed and drew."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source:
            parts += [_fenced("python", source), *_outputs(cell["outputs"])]
    return "\n\n".join(parts)


def _outputs(outputs: list[dict[str, Any]]) -> Iterator[str]:
    printed = "".join("".join(o["text"]) for o in outputs if o.get("name") == "stdout")
    if printed:
        yield _fenced("text", printed.rstrip())
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            yield f"![](data:image/png;base64,{''.join(data['image/png']).replace(chr(10), '')})"
        elif "text/html" in data:
            yield _fenced("{raw} html", "".join(data["text/html"]))
        elif "text/plain" in data:
            yield _fenced("text", "".join(data["text/plain"]))


def _fenced(language: str, text: str) -> str:
    return f"``````{language}\n{text}\n``````"


class NotebookParser(MystParser):
    """Reads notebooks; those that the site is not to run are shown without outputs."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        notebook = json.loads(inputstring)
        if self.env.config.run_notebooks:
            notebook = executed(notebook, Path(self.env.srcdir))
        super().parse(as_markdown(notebook), document)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("run_notebooks", True, "env", bool)
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

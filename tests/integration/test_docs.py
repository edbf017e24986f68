"""The documents say what is true: links, code, command lines, README output, glossary, pins."""

import doctest
import json
import re
import runpy
import shlex
import tomllib

import click
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import spectra
from spectra.cli import main
from spectra.records import Finding, Status
from spectra.sources import cuts
from spectra.sources.formats import FORMATS
from spectra.sources.quantized import rules
from spectra.sources.refusals import REFUSALS
from tests.conftest import ROOT, real_weights
from tests.reading import anchors, blocks, links

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
TEXTS = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in PAGES}
TEXTS |= {
    f"notebooks/{path.name}": "\n\n".join(
        "".join(cell["source"])
        for cell in json.loads(path.read_text("utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
    )
    for path in ROOT.glob("notebooks/*.ipynb")
}
BLOCKS_NOT_RUN = 1
"""Python blocks marked as not to be run; a change of it is a decision."""


@pytest.mark.parametrize("name", TEXTS)
def test_links_between_pages_lead_somewhere(name):
    for target in links(TEXTS[name]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        page = (ROOT / name).parent / path if path else ROOT / name
        assert page.exists(), target
        if anchor:
            text = TEXTS[str(page.resolve().relative_to(ROOT.resolve()))]
            assert anchor in anchors(text), target


@pytest.fixture
def docs_folder(weights, rng, tmp_path, monkeypatch):
    """The folder that examples assume: made-up weights under the names they use."""
    save_file(
        weights | {"layer1.0.conv1.weight": weights["conv.weight"]}, tmp_path / "model.safetensors"
    )
    (tmp_path / "models").mkdir()
    for name in ("a", "b", "c"):
        made = {f"{i}.weight": rng.standard_t(3, (60, 50)) for i in range(3)}
        save_file(made, tmp_path / "models" / f"{name}.safetensors")
    scores = "model,error\na.safetensors,1\nb.safetensors,2\nc.safetensors,3\n"
    (tmp_path / "errors.csv").write_text(scores)
    spectra.analyze(tmp_path / "model.safetensors").write(tmp_path / "base.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # as the page says itself, but taken back
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


PYTHON = {
    name: chosen
    for name, text in TEXTS.items()
    if (chosen := [block for block in blocks(text) if block.language in ("python", "pycon")])
}


TRAINERS_WARN = (
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning's use of torch
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning"
    ),  # Keras' of NumPy
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # 480 rows need none
    pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning"),  # without a GPU
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=TRAINERS_WARN if n == "docs/trainers.md" else ()) for n in PYTHON],
)
def test_every_python_block_of_a_page_runs(name, docs_folder):
    namespace = {}  # a page is read from its top: later blocks go on from earlier ones
    for block in PYTHON[name]:
        if not block.runs:
            continue
        if block.text.lstrip().startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(block.text, namespace, name, name, 0)
            assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0
            namespace |= example.globs
        else:
            exec(compile(block.text, name, "exec"), namespace)


def test_few_blocks_are_left_out_of_that_and_how_many_is_known():
    assert PYTHON
    assert sum(not block.runs for found in PYTHON.values() for block in found) == BLOCKS_NOT_RUN


def command_lines(text):
    """Lines of shell blocks, and of the examples in help texts, that call the command."""
    for block in blocks(text):
        shell = block.text if block.language in ("sh", "bash", "shell") else ""
        if block.language == "text":
            shell = "".join(re.findall(r"^ *Examples:\n((?: *spectra .*\n)+)", block.text, re.M))
        for line in shell.replace("\\\n", " ").splitlines():
            if line.strip().startswith("spectra "):
                yield line.strip()


def parse(line):
    """Let click read a command line as far as it can without running it."""
    words = shlex.split(line, comments=True)
    ends = [words.index(sign) for sign in ("|", ">", "&&", "||", ";") if sign in words]
    context = main.make_context("spectra", words[1 : min(ends, default=len(words))])
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


LINES = sorted({line for text in TEXTS.values() for line in command_lines(text)})


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_can_be_read(line):
    parse(line)


def test_command_lines_are_found_and_slips_in_them_too():
    assert len(LINES) > 15
    for line in (
        "spectra analyse x",
        "spectra analyze x --plot y",
        "spectra rank --by",
        "spectra",
        "spectra cache x",
    ):
        with pytest.raises((click.UsageError, click.exceptions.NoArgsIsHelpError)):
            parse(line)


@pytest.mark.parametrize(
    ("script", "page"),
    [("write_command_line.py", "command-line.md"), ("make_gallery.py", "gallery.md")],
)
def test_pages_that_scripts_write_are_as_the_scripts_write_them(script, page):
    text = runpy.run_path(str(ROOT / "scripts" / script))["page"]()
    assert text == TEXTS[f"docs/{page}"], f"run scripts/{script}"


def test_every_picture_of_the_gallery_is_there_and_no_other():
    names = set(re.findall(r"figures/gallery/(\S+)\)", TEXTS["docs/gallery.md"]))
    assert {path.name for path in (ROOT / "docs/figures/gallery").iterdir()} == names
    size = sum(path.stat().st_size for path in (ROOT / "docs" / "figures").rglob("*.*"))
    assert size < 2**20


def test_every_page_is_in_the_contents():
    contents = {}
    for index in ("docs/README.md", "docs/decisions/README.md"):
        folder = (ROOT / index).parent
        found = ((folder / target).resolve() for target in links(TEXTS[index]))
        contents |= dict.fromkeys(found, index)
    listed = {str(path.relative_to(ROOT.resolve())) for path in contents}
    assert set(TEXTS) - listed == {"docs/README.md"}


def test_the_readme_shows_the_real_output(monkeypatch):
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"```text\n(.*?)```", readme, re.DOTALL)[1]
    path = real_weights("resnet20")
    monkeypatch.chdir(path.parent)
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["analyze", path.name])
    printed = "\n".join(line.rstrip() for line in result.stdout.splitlines())
    assert printed.strip() == shown.strip()


def test_every_status_and_warning_is_in_the_glossary():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    for code in (*Finding, *(status for status in Status if status is not Status.OK)):
        assert re.search(rf"^\| `{code}` \|", glossary, re.MULTILINE), code


def test_every_make_target_of_the_documents_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in ("README.md", "CONTRIBUTING.md"):
        targets = re.findall(
            r"(?:`|^)make ([a-z]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE
        )
        assert targets
        for target in targets:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_torch_is_pinned_and_every_dependency_constrained():
    pins = (ROOT / "constraints.txt").read_text("utf-8").lower()
    assert "torch==2.13.0" in pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    name = re.compile(r"[\w-]+")
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *(r for group in extras.values() for r in group)):
        if not requirement.startswith(project["name"]):  # its own extras
            assert f"\n{name.match(requirement)[0]}==".replace("_", "-") in pins.replace("_", "-")


def test_the_decisions_are_all_listed():
    index = (ROOT / "docs" / "decisions" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs" / "decisions").glob("0*.md"):
        assert page.name in index


CHECKPOINTS = (ROOT / "docs" / "checkpoints.md").read_text("utf-8")


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_that_is_read_is_on_its_page(form):
    extra = f"`{form.extra}` " if form.extra else ""
    assert f"| {form.name} | {form.told_by} | {extra}|" in CHECKPOINTS


@pytest.mark.parametrize("rule", cuts.RULES, ids=lambda rule: rule.words[:20])
def test_every_rule_of_cutting_is_on_its_page(rule):
    assert f"| {rule.words} |" in CHECKPOINTS


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.scheme)
def test_every_quantisation_is_on_its_page(rule):
    assert f"| {rule.scheme} |" in CHECKPOINTS


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.what)
def test_every_refusal_is_on_its_page_with_its_way_out(refusal):
    row = f"| {refusal.what} | {refusal.recognised} | {refusal.advice} |"
    assert row in CHECKPOINTS


def test_the_page_names_nothing_that_is_not_there():
    tables = re.findall(r"^\| ([^|`]+) \|$", CHECKPOINTS, re.MULTILINE)
    schemes = {rule.scheme for rule in rules.RULES}
    assert set(tables) - {"scheme", "---"} == schemes
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for form in FORMATS:
        assert not form.extra or form.extra in extras["optional-dependencies"]

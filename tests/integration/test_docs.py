"""The documents say what is true: README output, links, the glossary, citation, pins."""

import re
import tomllib

import pytest
from click.testing import CliRunner

from spectra.cli import main
from spectra.records import Finding, Status
from spectra.sources import cuts
from spectra.sources.formats import FORMATS
from spectra.sources.quantized import rules
from spectra.sources.refusals import REFUSALS
from tests.conftest import ROOT, real_weights

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


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

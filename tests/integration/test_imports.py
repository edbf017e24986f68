"""What is loaded when, in processes of their own."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "matplotlib", "scipy", "powerlaw", "rich", "numpy", "safetensors")
FRAMES = ("pandas", "polars", "pyarrow")
TRAINERS = ("transformers", "lightning", "pytorch_lightning", "accelerate", "tensorboard")


def loaded_by(code):
    """Run `code` and return which heavy packages it loaded."""
    check = f"import sys; print(*[m for m in {HEAVY + FRAMES + TRAINERS!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import spectra") == set()


def test_the_training_package_and_its_rules_load_no_torch():
    assert loaded_by("import spectra.training") == set()
    rules = "from spectra.training import TEMPBALANCE, multipliers\nmultipliers({'a': 2.0}, TEMPBALANCE)"
    assert "torch" not in loaded_by(rules)


def test_the_monitor_and_what_adapters_share_load_no_trainer():
    code = (
        "from spectra.training import SpectralMonitor\nimport spectra.training.adapters.watched_run"
    )
    assert not loaded_by(code) & {*TRAINERS}


@pytest.mark.parametrize("name", ["transformers", "lightning"])
def test_an_adapter_without_its_trainer_says_how_to_install_it(name):
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "gone = ('transformers', 'lightning', 'pytorch_lightning')\n"
        "sys.modules |= dict.fromkeys([*gone, 'lightning.pytorch'])\n"
        "importlib.util.find_spec = lambda n, *a: None if n in gone else found(n, *a)\n"
        f"import spectra.training.adapters.{name}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert said.startswith("spectra.errors.CheckpointError: ")
    assert "is needed to watch its Trainer and is not installed" in said
    assert said.endswith(f"pip install 'spectra-diagnostics[{name}]'")


def test_help_loads_nothing_heavy():
    code = "from click.testing import CliRunner\nfrom spectra.cli import main\n"
    for arguments in (
        [],
        ["--help"],
        ["analyze", "--help"],
        ["smooth", "--help"],
        ["cache", "clear", "--help"],
    ):
        assert loaded_by(f"{code}CliRunner().invoke(main, {arguments!r})") == set()


def test_safetensors_are_analysed_without_torch_or_matplotlib():
    code = "import spectra\nfrom spectra.sources import demo_model\nspectra.analyze(demo_model())"
    assert not loaded_by(code) & {"torch", "matplotlib", "scipy", "powerlaw", "rich"}


def test_frames_are_loaded_by_those_who_ask_for_them():
    code = "import spectra\nfrom spectra.sources import demo_model\nr = spectra.analyze(demo_model())\n"
    assert not loaded_by(f"{code}str(r)\nr._repr_html_()\nspectra.reports.to_csv(r)") & {*FRAMES}
    assert "polars" not in loaded_by(f"{code}r.to_pandas()")


def test_all_public_names_are_there():
    import spectra

    for name in spectra.__all__:
        assert getattr(spectra, name) is not None
    assert set(spectra.__all__) <= set(dir(spectra))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = spectra.nonsense

"""A smoothed copy as data: JSON."""

import dataclasses
import json

import spectra
from spectra.reports.tables import Row, plain
from spectra.saved import SCHEMA_VERSION
from spectra.smoothing import Smoothed


def smoothed_to_dict(copy: Smoothed) -> Row:
    """Return what was cut and what was left as plain values, layers in checkpoint order."""
    return {
        "schema_version": SCHEMA_VERSION,
        "spectra_version": spectra.__version__,
        "source": copy.source,
        "out": copy.out,
        "files": list(copy.files),
        "notes": list(copy.notes),
        "options": {key: plain(value) for key, value in copy.options.items()},
        "n_cut": copy.n_cut,
        "layers": [
            {key: plain(value) for key, value in dataclasses.asdict(layer).items()}
            for layer in copy.layers
        ],
        "skipped": [
            {key: plain(value) for key, value in dataclasses.asdict(item).items()}
            for item in copy.skipped
        ],
    }


def smoothed_to_json(copy: Smoothed) -> str:
    """Return it as JSON; NaN becomes null."""
    return json.dumps(smoothed_to_dict(copy), indent=2, allow_nan=False) + "\n"

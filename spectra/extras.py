"""Optional packages: imported on use, or the command that installs them."""

import importlib
from typing import Any

from spectra.errors import CheckpointError


def require(module: str, extra: str, task: str = "read this") -> Any:  # noqa: ANN401 - a module without types
    """Import an optional package, or say how to install it.

    Parameters
    ----------
    module : str
        What to import.
    extra : str
        The extra of the distribution that brings it.
    task : str, default: "read this"
        What it is needed for, as in "is needed to read this".

    Raises
    ------
    CheckpointError
        ``E_MISSING_PACKAGE`` if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CheckpointError(
            "E_MISSING_PACKAGE",
            module,
            f"is needed to {task} and is not installed",
            f"install it: pip install 'spectra-diagnostics[{extra}]'",
        ) from None

"""Optional packages: imported on use, or the command that installs them."""

import importlib
from importlib.util import find_spec
from typing import Any

from spectra.errors import CheckpointError, printable


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
        ``E_MISSING_PACKAGE`` if it is not installed, or lacks something itself.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if find_spec(module.partition(".")[0]) is None:
            reason = "is not installed"
            hint = f"install it: pip install 'spectra-diagnostics[{extra}]'"
        else:  # as Keras without the backend that it is set to
            reason = f"cannot be imported: {printable(str(error))}"
            hint = "see its own documentation for what it needs beside it"
        raise CheckpointError(
            "E_MISSING_PACKAGE", module, f"is needed to {task} and {reason}", hint
        ) from None

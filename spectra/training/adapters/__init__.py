"""Callbacks for the trainers people use, a module each; none is imported before it is asked for.

``spectra.training.adapters.transformers``, ``.lightning`` and ``.keras`` each hold a
``SpectralCallback``. What they do beside calling their trainer is in ``watched_run``.
"""

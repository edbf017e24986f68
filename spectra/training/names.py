"""What a layer is called without the wrappers that trainers put around a model."""

import re

from spectra.sources import layouts

ADAPTED = re.compile(r"^base_model\.model\.|\.base_layer(?=\.|$)")
ADAPTER = re.compile(r"(\.(?:lora|vera|hada|lokr)_\w+)\.[^.]+(?=\.weight$|$)")


def clean_names(names: list[str]) -> list[str]:
    """Remove the prefixes of compile, DDP, FSDP, activation checkpoints and PEFT.

    If two names would become one, as those of two adapters of one layer do, all stay as they are.

    Examples
    --------
    >>> clean_names(["module._orig_mod.h.0.fc.weight", "module._orig_mod.head.weight"])
    ['h.0.fc.weight', 'head.weight']
    >>> clean_names(["base_model.model.h.q.base_layer.weight", "base_model.model.h.q.lora_A.default.weight"])
    ['h.q.weight', 'h.q.lora_A.weight']
    """
    without = layouts.clean_names(names)
    cleaned = [ADAPTER.sub(r"\1", ADAPTED.sub("", name)) for name in without]
    return cleaned if len(set(cleaned)) == len(cleaned) else without

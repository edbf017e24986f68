"""Policies as the files that other programs read: JSON of ratios and ranks, YAML of layers to train."""

import json
import re

from spectra.policies import Policy

SCHEMA_VERSION = 1

_PLAIN = re.compile(r"\^[\w.()|$\\/-]+", re.ASCII)


def to_file(policy: Policy) -> str:
    """Write a policy in the form its readers expect.

    Returns
    -------
    str
        ``prune``: JSON with the ratio of each layer. ``lora``: JSON whose keys are arguments of PEFT's
        ``LoraConfig``. ``freeze``: YAML with ``unfrozen_parameters``, as Spectrum's program writes it.
    """
    if policy.kind == "freeze":
        return _yaml(policy)
    content = _ranks(policy) if policy.kind == "lora" else _ratios(policy)
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def pattern_of(name: str) -> str:
    r"""Return a regular expression for a weight and its bias, whole names only.

    Dots stay as they are: a reader that escapes them itself (axolotl does) would spoil escaped ones.

    Examples
    --------
    >>> pattern_of("model.layers.1.mlp.up_proj.weight")
    '^model.layers.1.mlp.up_proj.(weight|bias)$'
    >>> pattern_of("attn.in_proj_weight")
    '^attn.in_proj_weight$'
    """
    module = name.removesuffix(".weight")
    ending = ".(weight|bias)" if module != name else ""
    return f"^{_escaped(module)}{ending}$"


def _escaped(name: str) -> str:
    return re.sub(r"([^\w./-])", r"\\\1", name)


def _yaml(policy: Policy) -> str:
    lines = ["unfrozen_parameters:"]
    groups = dict.fromkeys(share.group for share in policy.shares if share.value)
    for group in groups:
        trained = [share for share in policy.shares if share.group == group and share.value]
        lines.append(f"# {json.dumps(group)[1:-1]}")
        for share in sorted(trained, key=lambda share: -share.score):
            pattern = pattern_of(share.name)
            # What YAML might read as anything but text goes into quotes, JSON's being YAML's too.
            lines.append(f"- {pattern if _PLAIN.fullmatch(pattern) else json.dumps(pattern)}")
    return "\n".join(lines) + "\n"


def _ratios(policy: Policy) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "policy": policy.kind,
        "source": policy.source,
        "complete": policy.complete,
        **policy.options,
        "ratios": policy.by_name,
    }


def _ranks(policy: Policy) -> dict[str, object]:
    ranks = {_escaped(name.removesuffix(".weight")): rank for name, rank in policy.by_name.items()}
    return {"r": policy.options["mean_rank"], "rank_pattern": ranks}

"""What a layer's name tells: its role in the network, and the block it belongs to.

Roles are what layers are grouped by, in comparisons, histories and pictures; they change no number.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from spectra.records import Kind

Role = str

ROLES: Mapping[Role, str] = MappingProxyType(
    {
        "embedding": "embedding",
        "q": "attention: query",
        "k": "attention: key",
        "v": "attention: value",
        "qkv": "attention: query, key and value in one",
        "o": "attention: output",
        "gate": "feed-forward: gate",
        "up": "feed-forward: up",
        "gate_up": "feed-forward: gate and up in one",
        "down": "feed-forward: down",
        "router": "router of experts",
        "recurrent": "recurrent cell",
        "conv": "convolution",
        "linear": "linear",
        "head": "output head",
    }
)
"""Every role with its meaning, in the order of a forward pass."""

# Tried in order on the lower-case path of the module, without ``.weight``.
_RULES: tuple[tuple[Role, str], ...] = (
    ("qkv", r"(qkv(_proj)?|c_attn|query_key_value|wqkv|in_proj(_weight)?|attn_qkv)$"),
    ("gate_up", r"(gate_up_proj|gate_and_up|wi_fused)$"),
    ("q", r"(q|wq|to_q|attn_q|(q|query)(_[ab])?(_?(proj|lin|proj_weight))?)$"),
    ("k", r"(k|wk|to_k|attn_k|(k|key)(_[ab])?(_?(proj|lin|proj_weight))?)$"),
    ("v", r"(v|wv|to_v|attn_v|(v|value)(_[ab])?(_?(proj|lin|proj_weight))?)$"),
    ("o", r"(o_proj|to_out(\.0)?|attn_out(put)?|out_lin)$"),
    ("o", r"[^.]*(attn|attention)[^.]*(\.output)?"
          r"\.(out_proj|c_proj|proj|dense|wo|o|out|output\.dense)$"),
    ("router", r"(router(\.(layer|classifier))?|gate_inp|(moe|mlp|block_sparse_moe)\.gate)$"),
    ("gate", r"(gate_proj|ffn_gate(_exps)?|wi_0)$"),
    ("gate", r"(feed_forward|experts\.\d+|mlp)\.w1$"),
    ("up", r"(up_proj|ffn_up(_exps)?|wi_1|wi|c_fc|dense_h_to_4h|intermediate\.dense|lin1)$"),
    ("up", r"(feed_forward|experts\.\d+|mlp)\.w3$"),
    ("up", r"\d+\.(.*\.)?(fc1|linear1|w_?in)$"),
    ("down", r"(down_proj|ffn_down(_exps)?|dense_4h_to_h|lin2)$"),
    ("down", r"(feed_forward|experts\.\d+|mlp)\.(w2|c_proj|wo)$"),
    ("down", r"[^.]*(densereludense|ffn|mlp)[^.]*\.wo$"),
    ("down", r"\d+\.(.*\.)?(fc2|linear2|w_?out)$"),
    ("down", r"\d+\.output\.dense$"),
    ("recurrent", r"(weight_(ih|hh)(_l\d+)?(_reverse)?|recurrent_kernel|(lstm|gru|rnn)[^.]*)$"),
)  # fmt: skip
_COMPILED = tuple((role, re.compile(rf"(^|[./]){pattern}")) for role, pattern in _RULES)
_CELL = re.compile(r"(^|[./])[^./]*(weight_(ih|hh)_l?\d*|recurrent_kernel)")
_ENDINGS = (".weight", "/kernel", ".kernel", ".qweight", "_weight")
_BLOCK = re.compile(r"^(.*?(?:^|[./])\d+)(?=[./])")


def role_of(name: str, kind: Kind) -> Role:
    """Return what a layer does in the network, one of `ROLES`.

    Parameters
    ----------
    name : str
        The parameter's full name; a part of it as ``...qkv_proj.weight[q]``.
    kind : str
        The layer's kind, which decides for embeddings, heads and convolutions.

    Examples
    --------
    >>> role_of("model.layers.3.self_attn.q_proj.weight", "linear")
    'q'
    >>> role_of("h.0.attn.c_attn.weight[k]", "linear"), role_of("h.0.mlp.c_proj.weight", "linear")
    ('k', 'down')
    >>> role_of("fc1.weight", "linear")
    'linear'
    """
    if kind in ("embedding", "head"):
        return kind
    if kind.startswith("conv"):
        return "conv"
    whole, _, label = name.partition("[")
    label = label.rstrip("]")
    if _CELL.search(whole):
        return "recurrent"
    for part in label.split(",")[-1:]:
        if part in ROLES:
            return part
    path = whole.lower()
    for ending in _ENDINGS:
        path = path.removesuffix(ending)
    for role, pattern in _COMPILED:
        if pattern.search(path):
            return role
    return "linear"


def block_of(name: str) -> str:
    """Return the block a layer belongs to: its name up to the first number, or nothing.

    Examples
    --------
    >>> block_of("model.layers.3.mlp.experts.7.w1.weight"), block_of("layer1.0.conv1.weight")
    ('model.layers.3', 'layer1.0')
    >>> block_of("lm_head.weight")
    ''
    """
    found = _BLOCK.match(name)
    return found.group(1) if found else ""

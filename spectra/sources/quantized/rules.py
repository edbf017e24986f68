"""The table of quantisation schemes: how the codes of a weight are recognised, what belongs to them."""

from collections.abc import Callable
from dataclasses import dataclass

from spectra.sources.quantized import packed_words, scaled_codes
from spectra.sources.quantized.scaled_codes import Pieces, Plan

INT32, INT8, UINT8 = frozenset({"int32", "uint32"}), frozenset({"int8"}), frozenset({"uint8"})
BYTES = frozenset({"uint8", "int8", "float4_e2m1fn_x2"})

STATES = (f"{packed_words.STATE}nf4", f"{packed_words.STATE}fp4", "weight.absmax")
NESTED = ("weight.nested_absmax", "weight.nested_quant_map", "weight.nested_offset")
ACTIVATIONS = (
    *("input_scale", "input_scale_inv", "input_global_scale", "input_zero_point"),
    *("output_scale", "scale_input", "activation_scale"),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One scheme: ending and types (None: any) of the codes, what belongs to them, how to plan.

    Of `marks` one must be there, if there are any; `when` asks for more than names. ``logical`` takes
    the place of the codes' ending in the name of the weight.
    """

    scheme: str
    codes: str
    types: frozenset[str] | None
    plan: Callable[[Pieces], Plan]
    marks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    logical: str = "weight"
    when: Callable[[Pieces], bool] = lambda pieces: True


def _has_exponents(pieces: Pieces) -> bool:
    scale = pieces.beside.get("weight_scale") or pieces.beside.get("scale")
    return scale is not None and scale.dtype in scaled_codes.EXPONENTS


def _is_blocks(pieces: Pieces) -> bool:
    shape = pieces.codes.shape
    return "_scales" in pieces.beside or (len(shape) == 4 and shape[-1] == 16)


RULES: tuple[Rule, ...] = (
    Rule(
        "bitsandbytes 4-bit",
        codes="weight",
        types=None,
        marks=STATES,
        others=("weight.quant_map", *NESTED),
        plan=packed_words.bitsandbytes4,
    ),
    Rule(
        "bitsandbytes int8",
        codes="weight",
        types=INT8,
        marks=("SCB",),
        others=("weight_format",),
        plan=scaled_codes.bitsandbytes8,
    ),
    Rule(
        "GPTQ or AWQ",
        codes="qweight",
        types=INT32,
        marks=("scales", "qzeros"),
        others=("g_idx",),
        plan=packed_words.gptq_or_awq,
    ),
    Rule(
        "MXFP4 experts of gpt-oss",
        codes="_blocks",
        types=UINT8,
        others=("_scales",),
        plan=scaled_codes.mxfp4_experts,
        logical="",
        when=_is_blocks,
    ),
    Rule(
        "compressed-tensors, 4-bit floats",
        codes="weight_packed",
        types=UINT8,
        others=("weight_scale", "weight_global_scale"),
        plan=scaled_codes.packed_float4,
    ),
    Rule(
        "compressed-tensors, packed integers",
        codes="weight_packed",
        types=INT32,
        others=("weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"),
        plan=packed_words.integers,
    ),
    Rule(
        "ModelOpt NVFP4",
        codes="weight",
        types=BYTES,
        marks=("weight_scale_2",),
        others=("weight_scale",),
        plan=scaled_codes.modelopt_float4,
    ),
    Rule(
        "MXFP4 of DeepSeek and Quark",
        codes="weight",
        types=BYTES,
        marks=("weight_scale", "scale"),
        plan=scaled_codes.mxfp4,
        when=_has_exponents,
    ),
    Rule(
        "int8",
        codes="weight",
        types=INT8,
        marks=("weight_scale",),
        others=("weight_zero_point",),
        plan=scaled_codes.integer8,
    ),
    Rule(
        "fp8",
        codes="weight",
        types=scaled_codes.FLOAT8,
        marks=scaled_codes.SCALES,
        plan=scaled_codes.float8,
    ),
    Rule(
        "fp8, fused",
        codes="",
        types=scaled_codes.FLOAT8,
        marks=("_scale_inv", "_scale"),
        plan=scaled_codes.float8,
        logical="",
    ),
)


def role(ending: str) -> str:
    """Say what a helper is to its weight, by the ending of its name."""
    for word, what in (
        ("input", "scale of the inputs"),
        ("zero", "zero points"),
        ("g_idx", "group index"),
        ("map", "code book"),
        ("state", "shape"),
        ("shape", "shape"),
        ("format", "order of rows"),
    ):
        if word in ending:
            return what
    return "scale"

import numpy as np
import pytest

import spectra
from spectra.comparing.deltas import DeltaSource, delta_source
from spectra.comparing.matching import match
from spectra.engine import planning
from spectra.sources import open_source


def dense_structure(change):
    """The definition, entry by entry of the Gram matrix of the short side."""
    tall = change if change.shape[0] >= change.shape[1] else change.T
    gram = tall.T @ tall
    off = ~np.eye(len(gram), dtype=bool)
    squares = tall**2
    return np.sum(gram[off] ** 2) / np.sum((squares.T @ squares)[off])


def test_the_difference_is_analysed_as_the_matrix_it_is(weights, rng):
    other = {name: w + 0.01 * rng.standard_t(3, w.shape) for name, w in weights.items()}
    comparison = spectra.compare(weights, other, subspaces=False)
    direct = spectra.analyze({name: other[name] - weights[name] for name in weights})
    assert [layer.name for layer in comparison.layers] == [row.name for row in direct.layers]
    for layer, row in zip(comparison.layers, direct.layers, strict=True):
        assert layer.delta.report.metrics == pytest.approx(row.metrics, rel=1e-9, nan_ok=True)
        change, mine = other[layer.name] - weights[layer.name], weights[layer.name].astype(float)
        assert layer.delta.norm == pytest.approx(np.linalg.norm(change) / np.linalg.norm(mine))
        assert layer.delta.squared_norm == pytest.approx(np.linalg.norm(change) ** 2)
        inner = np.sum(mine * other[layer.name])
        norms = np.linalg.norm(mine) * np.linalg.norm(other[layer.name])
        assert layer.delta.cosine == pytest.approx(inner / norms)
    assert sum(g.delta_share for g in comparison.groups if g.by == "role") == pytest.approx(1)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)])
def test_structure_is_its_definition(rng, shape):
    change = rng.standard_t(3, shape)
    base = rng.standard_normal(shape)
    (layer,) = spectra.compare({"w": base}, {"w": base + change}, subspaces=False).layers
    assert layer.delta.structure == pytest.approx(dense_structure(change), rel=1e-9)


def test_structure_is_the_same_when_the_difference_is_read_in_blocks(rng, monkeypatch):
    base = rng.standard_normal((700, 30))
    other = base + rng.standard_t(3, base.shape)
    (whole,) = spectra.compare({"w": base}, {"w": other}, subspaces=False).layers
    monkeypatch.setattr(planning, "block_rows", lambda M: 64)
    (blocks,) = spectra.compare({"w": base}, {"w": other}, subspaces=False).layers
    assert blocks.delta.structure == pytest.approx(whole.delta.structure, rel=1e-12)


def test_random_signs_have_structure_one_whatever_the_sizes(rng):
    sizes = np.outer(np.exp(rng.standard_normal(200)), np.exp(rng.standard_normal(150)))
    found = [dense_structure(sizes * rng.choice([-1.0, 1.0], sizes.shape)) for _ in range(20)]
    assert np.mean(found) == pytest.approx(1, abs=0.02)
    shared = sizes * rng.choice([-1.0, 1.0], (200, 1))
    assert dense_structure(shared) > 5


def test_slices_of_convolutions_add_up(rng):
    base = rng.standard_normal((24, 16, 3, 3))
    change = 0.1 * rng.standard_normal(base.shape)
    (layer,) = spectra.compare({"c.weight": base}, {"c.weight": base + change}).layers
    assert layer.delta.squared_norm == pytest.approx(np.sum(change**2))
    assert layer.delta.structure == pytest.approx(1, abs=0.1)


def test_parts_of_fused_tensors_have_their_own_difference(rng):
    base = {"h.0.attn.in_proj_weight": rng.standard_normal((90, 30))}
    other = {name: w.copy() for name, w in base.items()}
    other["h.0.attn.in_proj_weight"][30:60] *= 2
    comparison = spectra.compare(base, other)
    changes = {layer.name[-2]: str(layer.change) for layer in comparison.layers}
    assert changes == {"q": "identical", "k": "rescaled", "v": "identical"}


def test_a_difference_is_taken_in_float64_from_either_type(rng):
    base = {"w": rng.standard_normal((40, 30)).astype(np.float16)}
    other = {"w": base["w"].astype(np.float64) + 1e-9}
    source = DeltaSource(open_source(base), open_source(other), {"w": "w"})
    assert source.read("w") == pytest.approx(1e-9, rel=1e-6)
    assert source.read_rows("w", 3, 7).shape == (4, 30)
    (tensor,) = source.tensors
    assert (tensor.dtype, tensor.nbytes) == ("float64", 40 * 30 * (2 + 8 + 8))


def test_what_has_no_partner_is_listed_and_not_read(rng):
    base = {"a": rng.standard_normal((40, 30)), "b": rng.standard_normal((40, 30))}
    pairs = match(spectra.analyze(base).layers, spectra.analyze({"a": base["a"]}).layers).pairs
    source = delta_source(open_source(base), open_source({"a": base["a"]}), pairs)
    rows = spectra.analyze(source).layers
    assert [str(row.status) for row in rows] == ["zero", "unsupported_dtype"]

import math
import re

import numpy as np
import pytest

from spectra.errors import SelectionError
from spectra.ranking.statistics import typical
from spectra.records import Finding, Status, Verdict
from spectra.training import Alarm, AlarmKind, Reading
from spectra.training.scalars import scalars


def reading(layer, alpha=3.0, *, of="weight", kind="linear", step=9, **others):
    values = {"alpha": alpha, "alpha_hat": 2 * alpha, "stable_rank": 7.0, "log_norm": 1.0}
    return Reading(step, layer, of, kind, 64, 48, 48, values=values, **others)


ALPHAS = [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 18.0]


def test_a_curve_is_the_typical_layer_as_in_rankings_beside_the_mean_and_the_ends():
    found = scalars([reading(f"h.{i}", alpha) for i, alpha in enumerate(ALPHAS)])
    of_alpha = {
        k.rpartition("/")[2]: v for k, v in found.items() if k.startswith("spectral/alpha/")
    }
    assert of_alpha == {
        "typical": pytest.approx(float(typical(np.array(ALPHAS)))),
        "mean": pytest.approx(sum(ALPHAS) / 8),
        "min": 2.0,
        "max": 18.0,
    }
    assert found["spectral/alpha_hat/max"] == 36.0
    assert found["spectral/stable_rank/mean"] == 7.0
    assert found["spectral/log_norm/min"] == 1.0


def test_only_layers_with_numbers_count_and_embeddings_and_heads_stay_out():
    found = scalars(
        [
            reading("fc", 3.0),
            reading("nan", math.nan),
            reading("broken", 1.5, status=Status.NON_FINITE, verdict=Verdict.NO_NUMBERS),
            reading("wte", 9.0, kind="embedding"),
            reading("lm_head", 9.0, kind="head"),
        ],
        per_layer=True,
    )
    assert found["spectral/alpha/mean"] == found["spectral/alpha/max"] == 3.0
    assert found["spectral/layers/no_numbers"] == 1
    assert found["spectral/alpha/wte"] == 9.0
    assert {"spectral/alpha/nan", "spectral/alpha/broken"}.isdisjoint(found)
    assert all(math.isfinite(value) and type(value) is float for value in found.values())


def test_layers_are_counted_by_verdict_and_their_sum_is_all_that_were_read():
    verdicts = [Verdict.OVER_TRAINED, Verdict.OVER_TRAINED, Verdict.UNDER_TRAINED]
    verdicts += [Verdict.RANDOM_LIKE, Verdict.WELL_TRAINED, Verdict.NOT_JUDGED]
    readings = [reading(f"h.{i}", verdict=verdict) for i, verdict in enumerate(verdicts)]
    readings.append(
        reading("t", warnings=(Finding.CORRELATION_TRAP,), verdict=Verdict.WELL_TRAINED)
    )
    found = scalars(readings)
    counts = {v: found[f"spectral/layers/{v.value}"] for v in Verdict}
    assert counts == {
        Verdict.OVER_TRAINED: 2,
        Verdict.UNDER_TRAINED: 1,
        Verdict.RANDOM_LIKE: 1,
        Verdict.WELL_TRAINED: 2,
        Verdict.NOT_JUDGED: 1,
        Verdict.NO_NUMBERS: 0,
    }
    assert sum(counts.values()) == len(readings)
    assert found["spectral/layers/correlation_trap"] == 1


def test_of_several_readings_of_a_layer_the_last_counts():
    found = scalars([reading("fc", 3.0), reading("fc", 5.0, step=10)])
    assert found["spectral/alpha/mean"] == 5.0
    assert found["spectral/layers/not_judged"] == 1


def test_updates_and_gradients_have_their_own_place_and_no_counts():
    found = scalars([reading("fc", 4.0, of="update"), reading("fc", 5.0, of="gradient")])
    assert found["spectral/update/alpha/mean"] == 4.0
    assert found["spectral/gradient/alpha/mean"] == 5.0
    assert "spectral/alpha/mean" not in found
    assert {k: v for k, v in found.items() if "layers/" in k and v} == {}


def test_alarms_are_counted_while_they_last():
    raised = Alarm(AlarmKind.DEAD, "fc", "weight", 1, 3, 0.0, "warning", "fc: is zero")
    cleared = Alarm(AlarmKind.DEAD, "b", "weight", 1, 3, 0.0, "notice", "b: over", "cleared")
    assert scalars([], [raised, cleared])["spectral/alarms"] == 1
    assert scalars([])["spectral/alarms"] == 0


@pytest.mark.parametrize(
    ("layer", "key"),
    [
        ("h.0.attn.c_attn.weight[q]", "h.0.attn.c_attn.weight.q"),
        ("experts.down_proj[7]", "experts.down_proj.7"),
        ("dense/kernel:0", "dense/kernel.0"),
        ("a//b/../c d", "a/b/c.d"),
        ("ü.weight", "ü.weight"),
    ],
)
def test_names_of_layers_become_keys_that_every_tracker_takes(layer, key):
    found = scalars([reading(layer)], per_layer=True)
    assert f"spectral/alpha/{key}" in found
    for name in found:
        assert re.fullmatch(r"[\w\-./]+", name), name


def test_layers_whose_keys_would_be_one_are_kept_apart():
    found = scalars(
        [reading("a[0]", 3.0), reading("a.0", 4.0), reading("mean", 5.0)], per_layer=True
    )
    assert found["spectral/alpha/a.0"] == 3.0
    assert found["spectral/alpha/a.0.2"] == 4.0
    assert found["spectral/alpha/mean"] == 4.0, "the mean is not a layer's"
    assert found["spectral/alpha/mean.2"] == 5.0


@pytest.mark.parametrize("prefix", ["", "a b", "a/", "a//b", "/a", "a[0]"])
def test_a_prefix_that_a_tracker_would_refuse_is_told(prefix):
    with pytest.raises(SelectionError, match="prefix"):
        scalars([], prefix=prefix)


def test_metrics_are_chosen_by_name_and_a_slip_is_told():
    found = scalars([reading("fc")], metrics=["stable_rank"], prefix="run/spectra")
    assert found["run/spectra/stable_rank/mean"] == 7.0
    assert not any("/alpha/" in key for key in found)
    with pytest.raises(SelectionError, match="stable_rank"):
        scalars([], metrics=["stable_rnk"])

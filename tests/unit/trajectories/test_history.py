import dataclasses
import math

import numpy as np
import pytest

import spectra
from spectra.errors import CheckpointError, SelectionError
from spectra.ranking.statistics import typical
from spectra.records import Status
from spectra.reports.histories import history_to_csv
from spectra.trajectories import HistoryInterrupted
from spectra.trajectories.checkpoints import POSITION
from tests import made


def network(seed, part, n=6):
    rng = np.random.default_rng(seed)
    names = [f"layers.{i}.{kind}.weight" for i in range(n // 2) for kind in ("q_proj", "up_proj")]
    noise = {name: rng.normal(size=(80, 60)) for name in names}
    return {name: w + part * rng.standard_t(2.2, w.shape) for name, w in noise.items()}


@pytest.fixture(scope="module")
def reports():
    return [spectra.analyze(network(0, part), replicates=0) for part in (0, 0.5, 1, 2, 4)]


def named(report, address):
    return dataclasses.replace(report, source=dataclasses.replace(report.source, address=address))


def broken(report, *positions):
    layers = [
        made.layer(x.name, status=Status.NON_FINITE) if i in positions else x
        for i, x in enumerate(report.layers)
    ]
    layers = [dataclasses.replace(x, N=80, M=60) for x in layers]
    return dataclasses.replace(report, layers=tuple(layers))


def test_trajectories_are_those_of_the_layers_and_of_each_role(reports):
    found = spectra.history(reports)
    assert (found.unit, found.steps) == (POSITION, (0, 1, 2, 3, 4))
    assert len(found.layers) == 6
    table = np.array([[layer.alpha for layer in report.layers] for report in reports])
    whole, queries = found.trajectory("alpha"), found.trajectory("alpha", "q")
    assert whole.typical == pytest.approx(typical(table))
    assert whole.mean == pytest.approx(table.mean(axis=1))
    assert queries.n_layers == 3
    assert queries.median == pytest.approx(np.median(table[:, ::2], axis=1))
    with pytest.raises(KeyError):
        found.trajectory("alpha", "conv")
    for point, report in zip(found.checkpoints, reports, strict=True):
        assert point.alpha_low <= point.alpha <= point.alpha_high
        assert point.share_random_like == report.summary["n_random_like"] / 6
        assert point.n_traps is None
    assert all(layer.spectrum is None for report in found.reports for layer in report.layers)


def test_given_checkpoints_go_by_the_steps_in_their_names_or_else_as_given(reports):
    shuffled = [named(reports[i], f"run/step-{100 * i}/model.pt") for i in (3, 0, 4, 1, 2)]
    found = spectra.history(shuffled)
    assert found.steps == (0, 100, 200, 300, 400)
    assert found.unit == "step"
    assert found.trajectories == spectra.history(reports).trajectories
    same = [named(report, "run/step-1.pt") for report in reports]
    assert spectra.history(same).unit == POSITION


def test_a_checkpoint_of_another_architecture_or_other_rules_is_left_out_with_the_reason(reports):
    wide = spectra.analyze(network(0, 1, n=8), replicates=0)
    theirs = spectra.analyze(network(0, 1), replicates=0, convention="weightwatcher-0.7.7")
    found = spectra.history([*reports[:3], named(wide, "wide"), named(theirs, "theirs")])
    assert len(found.checkpoints) == 3
    reasons = {item.source: item.reason for item in found.left_out}
    assert "8 layers, not 6" in reasons["wide"]
    assert "convention is weightwatcher-0.7.7, not htsr" in reasons["theirs"]


def test_of_equally_many_the_earliest_architecture_is_kept(reports):
    other = [spectra.analyze(network(0, part, n=8), replicates=0) for part in (1, 2)]
    assert len(spectra.history([*reports[:2], *other]).layers) == 6
    assert len(spectra.history([*other, *reports[:2]]).layers) == 8


def test_a_checkpoint_that_has_diverged_leaves_the_others_their_layers(reports):
    found = spectra.history([*reports, broken(reports[4], 0, 1, 2, 3, 4)])
    assert len(found.layers) == 6
    assert math.isnan(found.checkpoints[-1].alpha)
    assert math.isnan(found.checkpoints[-1].alpha_low)
    assert found.checkpoints[-1].n_failed == 5
    assert len(found.signs) == 5
    one = spectra.history([*reports, broken(reports[4], 0)])
    assert len(one.layers) == 5
    assert math.isfinite(one.checkpoints[-1].alpha)


def test_a_run_without_any_numbers_has_a_history_of_its_signs(reports):
    nothing = broken(reports[0], *range(6))
    found = spectra.history([nothing, nothing])
    assert (found.layers, found.trajectories, found.change_points) == ((), (), ())
    assert len(found.signs) == 6


def test_one_layer_and_one_checkpoint_have_no_interval(rng):
    found = spectra.history([{"fc": rng.standard_t(3, (80, 60))}], replicates=0)
    assert len(found.checkpoints) == 1
    assert math.isnan(found.checkpoints[0].alpha_low)


def test_an_unreadable_checkpoint_takes_no_other_with_it(tmp_path):
    for step in (1, 3):
        np.savez(tmp_path / f"step_{step}.npz", **network(0, step))
    (tmp_path / "step_2.npz").write_bytes(b"PK\x03\x04 cut off")
    found = spectra.history(tmp_path, replicates=0)
    assert found.steps == (1, 3)
    assert [item.source for item in found.left_out] == ["step_2"]
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints"):
        spectra.history([tmp_path / "step_2.npz", tmp_path / "step_5.npz"])
    with pytest.raises(CheckpointError, match="does not exist"):
        spectra.history(tmp_path / "absent")


def test_a_mistyped_option_is_told_at_once_and_no_checkpoint_is_blamed(tmp_path):
    np.savez(tmp_path / "step_1.npz", **network(0, 1))
    np.savez(tmp_path / "step_2.npz", **network(0, 1))
    with pytest.raises(SelectionError, match="no 'cns' here"):
        spectra.history(tmp_path, estimator="cns")
    with pytest.raises(SelectionError, match="matches none"):
        spectra.history(tmp_path, layers="nothing.*")
    with pytest.raises(SelectionError, match="got none"):
        spectra.history([])


def test_incomplete_reports_are_left_out_unless_asked_for(reports):
    part = dataclasses.replace(reports[1], complete=False)
    found = spectra.history([reports[0], part])
    assert len(found.checkpoints) == 1
    assert "incomplete" in found.left_out[0].reason
    assert len(spectra.history([reports[0], part], allow_partial=True).checkpoints) == 2


def test_an_interruption_keeps_what_was_finished(reports, rng):
    def stop(done, total, name):
        raise KeyboardInterrupt

    weights = {f"fc{i}": rng.standard_t(3, (80, 60)) for i in range(40)}
    with pytest.raises(HistoryInterrupted) as caught:
        spectra.history([*reports[:2], weights], progress=stop)
    assert not caught.value.history.complete
    assert len(caught.value.history.checkpoints) == 2
    with pytest.raises(KeyboardInterrupt) as caught:
        spectra.history([weights], progress=stop)
    assert not isinstance(caught.value, HistoryInterrupted)


def test_progress_counts_checkpoints_and_seeds_repeat(rng):
    seen = []
    run = [{"fc": rng.standard_t(3, (80, 60))} for _ in range(3)]
    one = spectra.history(run, progress=lambda done, total, name: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert spectra.history(run) == one


def test_names_of_metrics_drive_no_spreadsheet(reports):
    layers = [dataclasses.replace(x, metrics={**x.metrics, "=1+1": 0.0}) for x in reports[0].layers]
    found = spectra.history([dataclasses.replace(reports[0], layers=tuple(layers))])
    assert history_to_csv(found).splitlines()[0].endswith(",'=1+1")

"""Real checkpoints through the whole path, and what is known of them."""

import pytest

import spectra
from spectra.sources import demo_model, demo_record
from tests.conftest import real_weights


def test_the_shipped_model_shows_what_the_theory_says_of_it():
    """SETOL's experiment at learning rate 0.16: published means of five seeds and their spread."""
    report, record = spectra.analyze(demo_model()), demo_record()
    # test error 0.0164 read off a figure; sd of an error of 1.6 % on 10,000 images is 0.0013
    assert abs(record["test_error"] - 0.0164) < 3 * 0.0013
    assert record["train_error"] == 0
    # fc1: 2.472, 2.467, 2.478, 2.480, 2.455; fc2: 2.245, 2.280, 2.329, 2.308, 2.314
    assert report["fc1.weight"].alpha == pytest.approx(2.470, abs=4 * 0.010)
    assert report["fc2.weight"].alpha == pytest.approx(2.295, abs=4 * 0.033)
    # read off a figure: 0.33 to 0.41 and 0.11 to 0.18
    assert 0.3 < report["fc1.weight"].delta_lambda_min < 0.45
    assert 0.08 < report["fc2.weight"].delta_lambda_min < 0.21
    assert report["fc3.weight"].status == "too_few_eigenvalues"
    for name, alpha in record["alpha"].items():
        assert report[name].alpha == pytest.approx(alpha, abs=1e-8)


# Published CIFAR-10 test error falls with depth; so must alpha-hat, while alpha does not
# (arXiv 2106.00734). The means were computed once for the default convention, to two digits.
def test_alpha_hat_orders_the_resnets_by_their_error():
    errors = {20: 8.27, 32: 7.37, 44: 6.90, 56: 6.61}
    summaries = {n: spectra.analyze(real_weights(f"resnet{n}")).summary for n in errors}
    by_alpha_hat = sorted(errors, key=lambda n: summaries[n]["alpha_hat"])
    assert by_alpha_hat == sorted(errors, key=errors.get)
    assert sorted(errors, key=lambda n: summaries[n]["alpha"]) != by_alpha_hat
    expected = {20: 0.74, 32: -0.32, 44: -0.81, 56: -1.11}
    for n, value in expected.items():
        assert summaries[n]["alpha_hat"] == pytest.approx(value, abs=0.005)


def test_a_bert_is_read_with_its_embeddings_apart():
    report = spectra.analyze(real_weights("all-minilm-l6-v2"))
    kinds = {layer.name: layer.kind for layer in report.layers}
    assert sum(kind == "embedding" for kind in kinds.values()) == 3
    assert kinds["encoder.layer.0.attention.self.query.weight"] == "linear"
    assert report.summary["n_averaged"] == 37
    assert all(layer.residual < 1e-12 for layer in report.layers)
    reasons = {item.name: item.reason for item in report.skipped}
    assert "integer" in reasons["embeddings.position_ids"]


def test_a_module_its_state_dict_and_its_files_give_the_same_numbers(tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(20260925)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(16, 24, 3),
        torch.nn.ConvTranspose2d(24, 16, 3),
        torch.nn.Linear(60, 40),
        torch.nn.Linear(40, 60),
    )
    state = net.state_dict()
    save_file(state, tmp_path / "m.safetensors")
    torch.save({"state_dict": state}, tmp_path / "m.pt")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    arrays = {name: value.numpy() for name, value in state.items()}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    files = [tmp_path / name for name in ("m.safetensors", "m.pt", "legacy.pth")]
    expected = spectra.analyze(net)
    assert len(expected.layers) == 4
    for source in (state, arrays, wrapped, *files):
        found = spectra.analyze(source)
        for layer in expected.layers:
            assert found[layer.name].metrics == layer.metrics
            assert (found[layer.name].kind, found[layer.name].averaged) == (
                layer.kind,
                layer.averaged,
            )
        assert found.summary["alpha"] == pytest.approx(expected.summary["alpha"], rel=1e-14)


def test_a_training_run_leaves_the_noise_behind():
    """Face detector, epochs 0 to 100: layers not told from noise, 23 of 24 at the start, become few.

    Its validation loss falls from 6.50 to 2.72 meanwhile; the mean alpha falls with it, from 5.81.
    """
    summaries = [
        spectra.analyze(real_weights(f"rfb-{epoch}")).summary for epoch in (0, 20, 40, 60, 80, 100)
    ]
    noise = [summary["n_random_like"] for summary in summaries]
    assert noise[0] >= 20
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] <= 5
    alphas = [5.81, 4.10, 3.77, 3.87, 3.45, 3.51]
    assert [summary["alpha"] for summary in summaries] == pytest.approx(alphas, abs=0.01)
    judged = [s["n_well_trained"] + s["n_over_trained"] + s["n_under_trained"] for s in summaries]
    assert judged[-1] > judged[0]

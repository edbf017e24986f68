import math

import pytest

from spectra.errors import CheckpointError, SelectionError
from spectra.ranking import scores


@pytest.fixture
def written(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "scores.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_scores_with_and_without_headings_and_groups(written):
    label, known = scores.read_scores(written("model,error\na,8.27\nb, 7.37 \n\n"))
    assert label == "error"
    assert known == {"a": (8.27, ""), "b": (7.37, "")}
    label, known = scores.read_scores(written("a,75.1%,small\nb,-1e-3,large\n"))
    assert label == "score"
    assert known == {"a": (75.1, "small"), "b": (-0.001, "large")}
    spreadsheet = scores.read_scores(written("model,top-1\r\na,1\r\n", "utf-8-sig"))
    assert spreadsheet == ("top-1", {"a": (1.0, "")})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no scores"),
        ("model,error\n", "holds no scores"),
        ("a,1\nb\n", "line 2"),
        ("a,1\nb,two\n", "line 2"),
        ("a,1\nb,nan\n", "line 2"),
        ("a,1\nb,inf\n", "line 2"),
        ("a,1\na,2\n", "second time"),
        ('a,1\n"b', "unexpected end"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(text, complaint, written):
    with pytest.raises(CheckpointError, match=complaint):
        scores.read_scores(written(text))


def test_no_file_and_no_text(tmp_path, written):
    with pytest.raises(CheckpointError, match="cannot be read"):
        scores.read_scores(tmp_path / "absent.csv")
    with pytest.raises(CheckpointError, match="not text"):
        scores.read_scores(written("a,1", "utf-16"))


LOWER = [
    "error",
    "test loss",
    "Perplexity",
    "top-1 err (%)",
    "CER",
    "RMSE",
    "val_ppl",
    "testWER",
    "bits per byte",
]


@pytest.mark.parametrize("label", LOWER)
def test_errors_are_better_low(label):
    assert scores.is_higher_better(label) is False


@pytest.mark.parametrize(
    "label", ["score", "accuracy", "top-1", "BLEU", "mIoU", "F1", "interrater agreement", "val_acc"]
)
def test_these_are_better_high(label):
    assert scores.is_higher_better(label) is True


@pytest.mark.parametrize("label", ["result", "x", "quality of life", "", "interrater"])
def test_of_others_it_is_not_known(label):
    assert scores.is_higher_better(label) is None


def test_models_are_matched_in_full_or_by_a_whole_beginning():
    known = {"resnet20": (8.0, ""), "resnet2": (9.0, ""), "b": (1.0, "")}
    models = {"resnet20-12fca": ["resnet20-12fca"], "x": ["x", "runs/b.pt", "b.pt", "b"]}
    assert scores.matched(known, models, "s.csv") == {"resnet20-12fca": "resnet20", "x": "b"}
    with pytest.raises(SelectionError, match=r"no score for resnet200.*resnet20, resnet2, b"):
        scores.matched(known, {"resnet200": ["resnet200"]}, "s.csv")
    with pytest.raises(SelectionError, match="fits b-1 and b-2"):
        scores.matched(known, {"b-1": ["b-1"], "b-2": ["b-2"]}, "s.csv")


def agreement(group, tau, n=4):
    return scores.Agreement(
        "alpha", group, n, tau, *([math.nan] * 3), tau, *([math.nan] * 2), tau**2, *([math.nan] * 2)
    )


def test_a_paradox_is_said_only_where_there_is_one():
    inside = scores.within([agreement("a", -1.0, 3), agreement("b", -0.5, 4)], "alpha")
    assert inside.tau == pytest.approx((-1.0 * 6 - 0.5 * 12) / 18)
    told = scores.paradox_in([agreement(scores.POOLED, 0.6), inside], "alpha")
    assert told.startswith("Simpson's paradox: tau of alpha is +0.60 over all models and -0.67")
    assert not scores.paradox_in([agreement(scores.POOLED, -0.6), inside], "alpha")
    assert not scores.paradox_in([agreement(scores.POOLED, 0.6)], "alpha")

"""`deeplab crf search`: planted optima, with made-up scores and with real CRFs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from support.crf_runs import CLASSES, ColourNetwork, blob

from deeplab.crf import CRFConfig, SearchRanges
from deeplab.crf.search import at_an_edge, best_of, coarse_to_fine
from deeplab.errors import UserError
from deeplab.evaluation.held_out import HeldOut, choose_photos
from deeplab.prediction.predictor import Predictor

pytestmark = pytest.mark.usefixtures("crf_in_torch")


class Photos:
    """What the search needs of a data set."""

    def __init__(self, *samples: tuple[np.ndarray, np.ndarray]) -> None:
        self.samples = samples

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.samples[index]


def peak(config: CRFConfig) -> float:
    """Highest, 1, at 4.2, 81 and 5.6."""
    away = (config.w1 - 4.2) / 3, (config.sigma_alpha - 81) / 70, (config.sigma_beta - 5.6) / 3
    return 1 - sum(each**2 for each in away)


def test_rounds_close_in_on_a_peak() -> None:
    scores = [best_of(coarse_to_fine(peak, rounds=rounds)).mean_iou for rounds in (1, 2, 3, 5)]
    assert scores == sorted(scores)
    best = best_of(coarse_to_fine(peak, rounds=6)).parameters
    np.testing.assert_allclose((best.w1, best.sigma_alpha, best.sigma_beta), (4.2, 81, 5.6), rtol=0.02)
    assert (best.w2, best.sigma_gamma) == (3, 3)


def test_the_first_round_is_the_whole_grid_and_nothing_is_tried_twice() -> None:
    trials = coarse_to_fine(peak)
    first = [each.parameters for each in trials if each.round == 1]
    grid = [(one.w1, one.sigma_alpha, one.sigma_beta) for one in first]
    assert grid == list(itertools.product((3, 4.5, 6), (30, 65, 100), (3, 4.5, 6)))
    assert len({each.parameters for each in trials}) == len(trials) <= 53
    second = [each.parameters for each in trials if each.round == 2]
    # the first round's best is 4.5, 65, 6: half a step of 1.5, 35 and 1.5 to each side, but not past 6
    assert {one.w1 for one in second} == {3.75, 4.5, 5.25}
    assert {one.sigma_alpha for one in second} == {47.5, 65, 82.5}
    assert {one.sigma_beta for one in second} == {5.25, 5.625, 6}


def test_a_grid_of_one_takes_the_middle() -> None:
    (only,) = coarse_to_fine(peak, grid=1, rounds=1)
    assert only.parameters == CRFConfig(w1=4.5, sigma_alpha=65, sigma_beta=4.5, w2=3, sigma_gamma=3)


def test_a_best_value_at_the_edge_of_its_range_is_named() -> None:
    ranges = SearchRanges(w1=(3, 6), sigma_alpha=(30, 60), sigma_beta=(5, 5), w2=3, sigma_gamma=3)
    best = best_of(coarse_to_fine(peak, ranges=ranges, rounds=3)).parameters
    assert at_an_edge(best, ranges) == {"sigma_alpha": 60}, (
        "the peak is at 81; a range of one value has no edge"
    )


def test_equal_scores_keep_the_first() -> None:
    trials = coarse_to_fine(lambda config: 0.5, rounds=1)
    assert best_of(trials) is trials[0]


def test_finds_the_colour_reach_that_tells_the_disc_from_its_surroundings() -> None:
    """A reach of 10 separates red from blue; a thousand does not, and the CRF then drowns the disc."""
    held = HeldOut(Predictor.as_it_is(ColourNetwork()), Photos(blob(40), blob(48)), chosen=[0, 1])
    ranges = SearchRanges(w1=(10, 10), sigma_alpha=(30, 30), sigma_beta=(10, 1000), w2=1, sigma_gamma=1)
    best = best_of(coarse_to_fine(held.mean_iou, ranges=ranges, rounds=1))
    assert best.parameters.sigma_beta == 10
    assert best.mean_iou == 1
    assert held.mean_iou(None) < 0.97
    assert held.mean_iou(best.parameters.model_copy(update={"sigma_beta": 1000.0})) < held.mean_iou(None)


def test_photos_are_drawn_by_the_seed() -> None:
    drawn = choose_photos(50, photos=10, seed=3)
    assert drawn == choose_photos(50, photos=10, seed=3) == sorted(set(drawn))
    assert len(drawn) == 10
    assert drawn != choose_photos(50, photos=10, seed=4)
    assert choose_photos(4, photos=10, seed=0) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": 0}, "grid 0, rounds 2; allowed: 1 or more"),
        ({"rounds": 0}, "rounds 0"),
        ({"ranges": SearchRanges(w1=(6, 3))}, "range of w1 is 6 to 3; allowed: above 0, the lowest first"),
        ({"ranges": SearchRanges(sigma_beta=(0, 3))}, "range of sigma_beta is 0 to 3"),
    ],
)
def test_mistakes_are_explained(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        coarse_to_fine(peak, **arguments)


def test_the_command_writes_what_eval_reads(
    deeplab, squares_model: Path, squares: Path, tmp_path: Path
) -> None:
    described = (squares, "--split", "train", "-m", squares_model, "--classes", *CLASSES, "--device", "cpu")
    options = ("--photos", 2, "--grid", 2, "--rounds", 1, "--seed", 5)
    texts = []
    for name in ("one.json", "two.json"):
        code, out, err = deeplab("crf", "search", *described, *options, "-o", tmp_path / name)
        assert code == 0, err
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]
    written = json.loads(texts[0])
    record = written["search"]
    assert len(record["tried"]) == 8
    assert len(record["photos"]) == 2
    assert record["mean IoU"] == max(each["mean IoU"] for each in record["tried"])
    best = max(record["tried"], key=lambda each: each["mean IoU"])
    assert written["parameters"].items() <= best.items()
    assert "without CRF" in out
    code, _, err = deeplab("eval", *described, "--crf", tmp_path / "one.json", "-o", tmp_path / "eval")
    assert code == 0, err
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["CRF"] == written["parameters"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--photos", 0, "-o", "x.json"), "--photos is 0; allowed: 1 to"),
        (("-o", "missing/x.json"), "folder missing of -o does not exist"),
        (("--w1", 5, 3, "-o", "x.json"), "range of w1 is 5 to 3"),
    ],
)
def test_wrong_options_stop_before_the_work(deeplab, squares: Path, words, message: str) -> None:
    code, _, err = deeplab("crf", "search", squares, "-m", "nowhere", *words)
    assert code == 2
    assert message in err

"""The benchmarks' harness: ratios within rounds, foreign load, workers that fail, tables."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _harness_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


class Scripted:
    """A worker that took these seconds."""

    def __init__(self, name: str, seconds: list[float], turns: list[str]) -> None:
        self.name, self.seconds, self.turns = name, list(seconds), turns

    def time(self, seconds: float) -> dict[str, float]:
        self.turns.append(self.name)
        wall = self.seconds.pop(0)
        return {"wall": wall, "processor": wall, "calls": 1}


def test_ratios_are_taken_within_rounds() -> None:
    """The machine slows down threefold in the second round: medians of times would say 2, or 0.67."""
    from harness.rounds import Round, compare

    rounds = [
        Round({"peer": 2.0, "ours": 1.0}, 0.0),
        Round({"peer": 12.0, "ours": 3.0}, 0.0),
        Round({"peer": 8.0, "ours": 2.0}, 0.0),
    ]
    found = compare(rounds, "peer")
    assert found.faster == {"peer": 1.0, "ours": 4.0} and found.seconds == {"peer": 8.0, "ours": 2.0}
    # quartiles of 2, 4, 4 are 3 and 4
    assert found.spread == {"peer": 0.0, "ours": 0.25}
    assert (found.rounds, found.dropped, found.noisy) == (3, 0, False)


def test_rounds_with_foreign_load_are_dropped_and_never_all() -> None:
    from harness.rounds import Round, compare

    quiet = [Round({"peer": 4.0, "ours": 2.0}, 0.1) for _ in range(3)]
    busy = [Round({"peer": 4.0, "ours": 4.0}, 0.9) for _ in range(4)]
    found = compare([*busy, *quiet], "peer")
    assert found.faster["ours"] == 2.0 and (found.dropped, found.noisy) == (4, False)
    worse = [Round({"peer": 4.0, "ours": 1.0}, 2.0)]
    found = compare([*worse, *busy], "peer")
    assert found.faster["ours"] == 1.0 and (found.rounds, found.dropped, found.noisy) == (3, 2, True)


def test_everybody_takes_a_turn_and_begins_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import rounds

    monkeypatch.setattr(rounds, "GAP_SECONDS", 0.0)
    turns: list[str] = []
    workers = [Scripted(name, [1.0, 2.0, 3.0], turns) for name in "ab"]
    found = rounds.take_turns(workers, seconds=0)
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert [each.seconds for each in found] == [{"a": n, "b": n} for n in (1.0, 2.0, 3.0)]


def test_a_sample_is_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import worker

    clock, runs = [0.0], []
    monkeypatch.setattr(worker.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(worker.time, "process_time", lambda: 2 * clock[0])

    def run() -> None:
        runs.append(clock[0])
        clock[0] += 0.25

    assert worker.measure(run, seconds=0.9) == {"calls": 4, "wall": 0.25, "processor": 0.5}
    assert len(runs) == 4


@pytest.fixture
def variants_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of variants for workers to import."""
    (tmp_path / "made_up.py").write_text(
        "import os\n"
        "def sums(start):\n"
        "    print('chatter')\n"
        "    return lambda: [start, len(os.sched_getaffinity(0)), int(os.environ['OMP_NUM_THREADS'])]\n"
        "def dies(start):\n"
        "    raise RuntimeError('no such file: weights')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "made_up"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory and processors are Linux's account")
def test_variants_run_in_processes_and_failures_are_named(
    variants_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import rounds
    from harness.compare import compare_variants
    from harness.process import Variant

    monkeypatch.setattr(rounds, "LEAST_SECONDS", 0.001)
    variants = [
        Variant("reference", variants_module, "sums", {"start": 7}),
        Variant("dead", variants_module, "dies", {"start": 7}),
        Variant("other", variants_module, "sums", {"start": 8}),
        Variant("same", variants_module, "sums", {"start": 7}),
    ]
    outputs: dict[str, list[int]] = {}

    def check(found: np.ndarray, expected: np.ndarray, name: str) -> tuple[str, bool]:
        outputs[name] = found.tolist()
        return f"{(found == expected).mean():.0%}", bool((found == expected).all())

    compared = compare_variants("made up", variants, check=check, threads=1, seconds=0, say=lambda text: None)
    result = compared.result
    assert outputs == {"reference": [7, 1, 1], "other": [8, 1, 1], "same": [7, 1, 1]}
    assert list(result["variants"]) == ["reference", "same"] and result["variants"]["same"]["peak_mb"] > 5
    assert "no such file: weights" in result["failed"]["dead"]
    assert result["failed"]["other"] == "not timed: 67%"
    assert compared.versions["numpy"] == np.__version__


def test_results_are_kept_case_by_case(tmp_path: Path) -> None:
    from harness import results
    from harness.rounds import Comparison

    comparison = Comparison({"a": 0.2, "b": 0.05}, {"a": 1.0, "b": 4.0}, {"a": 0.0, "b": 0.1}, 5, 1, True)
    case = results.case_result(
        "a case",
        comparison,
        reference="a",
        memory={"a": 300.4, "b": 99.6},
        agreement={"a": "same", "b": "same"},
        failed={"c": "died | badly"},
    )
    path = tmp_path / "bench.json"
    for name in ("first", "second", "first"):
        results.add(path, name, case, {"torch": "2.13"}, threads=2)
    content = results.json.loads(path.read_text())
    assert list(content["cases"]) == ["first", "second"] and content["versions"] == {"torch": "2.13"}
    text = results.tables(content)
    assert "### a case, 2 threads" in text and "torch 2.13" in text
    assert "| b | 50.0 | 4.00x | 100 | same |" in text and "| c | failed |  |  | died / badly |" in text
    assert "5 rounds, 1 dropped for foreign load. Too few were quiet: the quietest were taken." in text


def test_the_summary_holds_ours_against_the_best_of_the_others() -> None:
    from harness import results

    def variant(faster: float) -> dict[str, float]:
        return {"ms": 200.0 / faster, "faster": faster, "peak_mb": 100}

    variants = {"eager": 1.0, "slow": 2.0, "quick": 4.0, "ours, a": 6.0, "ours, b": 5.0, "quick, bf16": 8.0}
    variants |= {"quick, int8": 8.0, "ours, int8": 12.0}
    case = {
        "title": "a case",
        "reference": "eager",
        "variants": {name: variant(faster) for name, faster in variants.items()},
    }
    rows = results.summary({"cases": {"a": case}}).splitlines()[2:]
    # in bf16 there is nothing of ours
    assert rows == [
        "| a case | float32 | 200 ms | 4.00x, 100 MB (quick) | 6.00x, 100 MB (ours, a) | 1.50x |",
        "| a case | int8 | 200 ms | 8.00x, 100 MB (quick, int8) | 12.00x, 100 MB (ours, int8) | 1.50x |",
    ]


def test_curves_join_the_cases_that_differ_in_one_thing(tmp_path: Path) -> None:
    from harness.curves import save_curves

    network = "smp-v3plus-mobilenet_v2"
    ratios = {"512x512": 4.0, "256x256": 2.0, "1024x2048": 9.0, "512x512-150classes": 8.0}
    cases = {f"{network}-{size}": {"variants": {"ours": {"faster": ratio}}} for size, ratio in ratios.items()}
    paths = save_curves({"cases": cases}, tmp_path)
    assert [path.name for path in paths] == ["curve_side.svg", "curve_classes.svg"]
    # from (50, 350) to (470, 50); the top is the largest, a whole number of steps
    assert '<polyline points="50.0,200.0 470.0,50.0"' in paths[0].read_text()
    assert '<polyline points="50.0,200.0 470.0,50.0"' in paths[1].read_text()
    assert ">256</text>" in paths[0].read_text() and ">150</text>" in paths[1].read_text()


def test_the_steps_of_a_training_comparison_are_checked() -> None:
    import train_step

    judge = np.array([2.0, 1.0, -1.0, 0.5])
    peers = judge + np.array([0, 0, 0, 0.025])
    assert train_step.same_step(peers, peers, "peer, eager", judge=judge) == (
        "loss 0.0e+00 off float64 (at most 1e-04), gradients 1.0e-02",
        True,
    )
    off = judge * [1.001, 1, 1, 1]
    assert not train_step.same_step(off, peers, "ours", judge=judge)[1]
    assert train_step.same_step(off, peers, "ours, bf16", judge=judge)[1]
    # 0.1 of 2.5, where the peer is 0.025 off
    told, agrees = train_step.same_step(judge + np.array([0, 0, 0.1, 0]), peers, "ours", judge=judge)
    assert not agrees and "gradients 4.0e-02 (the peer's in float32 1.0e-02)" in told
    assert train_step.same_step(judge + np.array([0, 0, 0.03, 0]), peers, "ours", judge=judge)[1]
    assert train_step.same_step(judge[:3], peers, "ours", judge=judge) == ("2 gradients for 3", False)

"""Every golden case passes; the vectors are the reference's own output. And the judge notices mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from families import losses, models, regularization
from families.row import Judge
from families.weights import recipe_value
from support.shared_folder import SHARED, shared

from deeplab.data.layouts.tfrecord import RecordSplit

FOLDER = SHARED / "golden"
CASES = golden.cases(FOLDER) if FOLDER.is_dir() else []


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_case(path: Path) -> None:
    row = golden.run_case(path)
    if row.verdict == "not built yet":
        pytest.skip(f"not built yet: {row.detail}")
    assert row.verdict == "pass", row


def test_the_vectors_are_there() -> None:
    shared("golden")
    assert len(CASES) >= 79


def test_a_wrong_epsilon_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: the smallest mistake that the vectors' README lists must fail."""
    case = shared("golden/a07_mnv2_dm05_os8_aspp_dec4_65.npz")
    honest = models.build

    def wrong(options: dict, variables: list) -> torch.nn.Module:
        model = honest(options, variables)
        for module in [*model.context.modules(), *model.decoder.modules()]:
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-3
        return model

    monkeypatch.setattr(models, "build", wrong)
    row = golden.run_case(case)
    assert row.verdict == "fail"
    assert 4e-3 < row.difference < 5e-2


def test_a_mean_by_weights_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own weighted mean divides by the weights; the reference does not."""

    def by_weights(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        weights = torch.as_tensor(options["class_weights"]).expand(logits.shape[1]).float()
        scores = torch.nn.functional.interpolate(
            logits, labels.shape[-2:], mode="bilinear", align_corners=True
        )
        return torch.nn.functional.cross_entropy(scores, labels.long(), weights, ignore_index=255)

    monkeypatch.setattr(losses, "segmentation_cross_entropy", by_weights)
    row = golden.run_case(shared("golden/i_losses_a.npz"))
    assert row.verdict == "fail"
    # cases of one equal weight and no mining are the same either way
    assert "case 2: losses" in row.detail and "case 0:" not in row.detail


def test_biases_that_learn_no_faster_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = regularization.parameter_groups
    monkeypatch.setattr(
        regularization,
        "parameter_groups",
        lambda model, **options: honest(model, bias_multiplier=1.0, **options),
    )
    row = golden.run_case(shared("golden/n_regularization_a.npz"))
    assert row.verdict == "fail" and "mobilenet_v2_plain False_10 differs by 1.0e+01" in row.detail, row


def test_a_mask_of_other_numbers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = RecordSplit.label
    monkeypatch.setattr(RecordSplit, "label", lambda split, index: honest(split, index) // 2)
    row = golden.run_case(shared("golden/m_tfrecord_voc_png"))
    assert row.verdict == "fail" and "label0 differs in" in row.detail and row.labels < 1


def test_an_unknown_option_is_not_built_rather_than_left_out(tmp_path: Path) -> None:
    case = {"args": {"learning_policy": "poly", "restarts": 3}, "steps": [], "learning_rates_float32": []}
    np.savez(tmp_path / "j_learning_rates_z.npz", cases=np.array(json.dumps([case])))
    row = golden.run_case(tmp_path / "j_learning_rates_z.npz")
    assert (row.verdict, row.detail) == ("not built yet", "options restarts")


def test_what_the_reference_refuses_must_be_refused(tmp_path: Path) -> None:
    refused = {"learning_policy": "poli", "base_learning_rate": 1.0, "training_number_of_steps": 9}
    allowed = {**refused, "learning_policy": "poly"}
    for name, arguments, verdict in (("a", refused, "pass"), ("b", allowed, "fail")):
        path = tmp_path / f"j_learning_rates_{name}.npz"
        np.savez(path, cases=np.array(json.dumps([{"args": arguments, "error": "ValueError"}])))
        assert golden.run_case(path).verdict == verdict


def test_a_crash_is_a_failure_of_its_case_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "k_miou_broken.npz", labels=np.zeros(3))
    np.savez(tmp_path / "z_unheard_of.npz", values=np.zeros(3))
    assert golden.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "fail: KeyError" in out and "0 pass, 1 fail, 1 not built yet" in out


def test_the_judge_compares_value_by_value() -> None:
    judge = Judge("x")
    judge.close("a", [1.0, 100.0, np.nan], [1.1, 100.0, np.nan], absolute=0.2)
    judge.close("b", [1000.0], [1001.0], relative=0.01)
    judge.equal("c", [1, 2, 3, 4], [1, 2, 3, 4])
    row = judge.row()
    assert (row.verdict, row.detail, row.labels) == ("pass", "a", 1.0)
    assert row.difference == pytest.approx(0.1) and row.allowed == 0.2
    judge.equal("d", [1, 2, 3, 5], [1, 2, 3, 4])
    judge.close("e", [np.nan], [0.0], absolute=1)
    judge.close("f", [1.0, 2.0], [1.0], absolute=1)
    row = judge.row()
    assert (row.verdict, row.labels) == ("fail", 7 / 8)
    assert row.detail == "d differs in 1 of 4 values; e is NaN in other places; f has shape (2,), not (1,)"


def test_exit_code_counts_failures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = shared("golden/a01_mnv2_os16_plain_65.npz")
    (tmp_path / case.name).symlink_to(case)
    assert golden.main([str(tmp_path)]) == 0
    monkeypatch.setattr(models, "TOLERANCE", 1e-12)
    assert golden.main([str(tmp_path)]) == 1


def test_recipe_is_the_readmes() -> None:
    value = recipe_value("x/gamma", (1000,), 1.0)
    assert value.dtype == np.float32
    assert 0.8 <= value.min() < 0.81 < 1.19 < value.max() <= 1.2

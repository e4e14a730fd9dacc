"""A user's mistake: its parts, the sentence made of them, and the ways it travels."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from deeplab.errors import UserError
from deeplab.imaging.photos import TooManyPixels
from deeplab.train.batches import UpdateSampler, load_batches

FULL = UserError("value 9 is no class", allowed="0..2", fix="correct it", file=Path("masks/a.png"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("no photos given"), "no photos given"),
        (UserError("no photos", fix="give some"), "no photos; fix: give some"),
        (UserError("width is 0", allowed="1 or more"), "width is 0; allowed: 1 or more"),
        (FULL, "masks/a.png: value 9 is no class; allowed: 0..2; fix: correct it"),
    ],
)
def test_the_sentence_is_made_of_the_parts(error: UserError, sentence: str) -> None:
    assert str(error) == sentence
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), vars(sent)) == (sentence, vars(error))


def test_a_file_is_named_once_and_the_innermost_is() -> None:
    within = UserError("half a record", fix="fetch it").within("a.tfrecord")
    assert str(within.within("other")) == str(within) == "a.tfrecord: half a record; fix: fetch it"
    assert type(TooManyPixels("a bomb").within("a.png")) is TooManyPixels


@pytest.mark.parametrize(
    "value",
    [
        repr("k" * 5000),
        repr("a class " * 700),
        repr("it's " * 1000 + '"'),
        "9" * 5000,
        str([1] * 5000),
        "a line " * 5000,
    ],
)
def test_of_long_values_the_middle_is_left_out_wherever_they_stand(value: str) -> None:
    error = UserError(f"key {value} = {value}: no such\nthe model's 'x'", fix=f"not {value}", file="r.yaml")
    said = str(error)
    assert len(said) < 4200 and len(error.fix) < 2100
    assert said.startswith(f"r.yaml: key {value[:50]}") and said.endswith(value[-50:])
    assert "..." in said and "no such\nthe model's 'x'" in said


def test_paths_are_whole_where_such_a_file_can_be(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["f" * 200] * 15, "a.png")
    assert str(UserError("wrong", file=path)) == f"{path}: wrong"
    deep = tmp_path.joinpath(*["f" * 200] * 4, "a.png")
    for told in (f"{deep} is missing", f"no file {str(deep)!r}"):
        assert str(UserError(told, fix=f"--output {deep}")) == f"{told}; fix: --output {deep}"
    assert len(str(UserError("no such file", file=tmp_path / ("f" * 5000)))) < 300


def test_short_values_beside_each_other_are_no_long_one() -> None:
    what = (
        f"known: {', '.join(map(repr, range(1000, 1100)))}, {', '.join(repr(f'name {n}') for n in range(40))}"
    )
    assert str(UserError(what)) == what


class Wrong(torch.utils.data.Dataset):
    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        raise FULL


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_data_worker_meets_keeps_its_parts(workers: int) -> None:
    sampler = UpdateSampler(4, seed=0, batch_size=2, accumulate=1, first_step=0, steps=1)
    with pytest.raises(UserError) as caught:
        list(load_batches(Wrong(), sampler, workers=workers, device="cpu"))
    assert vars(caught.value) == vars(FULL)

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


class Wrong(torch.utils.data.Dataset):
    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        raise FULL


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_data_worker_meets_keeps_its_parts(workers: int) -> None:
    sampler = UpdateSampler(4, seed=0, batch_size=2, accumulate=1, first_step=0, steps=1)
    with pytest.raises(UserError) as caught:
        list(load_batches(Wrong(), sampler, workers=workers, device="cpu"))
    assert vars(caught.value) == vars(FULL)

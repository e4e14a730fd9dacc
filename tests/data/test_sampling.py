"""The stream of training samples: full shuffles, sharing between ranks, and resuming."""

import pytest

from deeplab.data.sampling import TrainSampler
from deeplab.errors import UserError


def test_every_epoch_is_a_new_full_shuffle():
    keys = list(TrainSampler(50, seed=3, stop=150))
    epochs = [[index for index, epoch in keys if epoch == number] for number in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(50))
    assert [epoch for _, epoch in keys] == [0] * 50 + [1] * 50 + [2] * 50


def test_seed_decides_the_order():
    assert list(TrainSampler(50, seed=3, stop=60)) == list(TrainSampler(50, seed=3, stop=60))
    assert list(TrainSampler(50, seed=3, stop=60)) != list(TrainSampler(50, seed=4, stop=60))


def test_resume_in_the_middle_of_an_epoch():
    whole = list(TrainSampler(7, stop=30))
    assert list(TrainSampler(7, start=11, stop=30)) == whole[11:]


def test_ranks_share_the_stream_of_one_process():
    whole = list(TrainSampler(7, stop=30))
    ranks = [list(TrainSampler(7, stop=30, rank=rank, world_size=4)) for rank in range(4)]
    assert [ranks[position % 4][position // 4] for position in range(30)] == whole
    assert [len(TrainSampler(7, stop=30, rank=rank, world_size=4)) for rank in range(4)] == [8, 8, 7, 7]


def test_length_counts_from_the_start():
    sampler = TrainSampler(7, start=5, stop=30, rank=1, world_size=3)
    assert len(sampler) == len(list(sampler)) == 8


def test_endless_stream():
    keys = iter(TrainSampler(3))
    assert [next(keys)[1] for _ in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    with pytest.raises(TypeError):
        len(TrainSampler(3))


@pytest.mark.parametrize("length, rank, world_size", [(0, 0, 1), (5, 2, 2), (5, -1, 2)])
def test_impossible_settings(length, rank, world_size):
    with pytest.raises(UserError, match="cannot sample"):
        TrainSampler(length, rank=rank, world_size=world_size)

"""Operations on tensors of images."""

import pytest
import torch

from common.data.batches import add_noise, binarized, random_flip, select, shuffled_batches, stream_seed, to_float


def test_flips_mirror_about_half_of_a_batch():
    images = torch.rand(400, 3, 4, 6)
    flipped = random_flip(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all() and 140 < mirrored.sum() < 260


def test_select_keeps_the_order_and_copies_only_where_it_must():
    images = torch.arange(10)[:, None]
    run = select(images, torch.tensor([0, 0, 1, 1, 1, 0, 0, 0, 0, 0]).bool())
    assert (
        run.flatten().tolist() == [2, 3, 4] and run.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
    )
    assert select(images, images.flatten() % 3 == 0).flatten().tolist() == [0, 3, 6, 9]
    assert len(select(images, torch.zeros(10).bool())) == 0


def test_noise_has_its_standard_deviation_and_stays_in_range():
    grey = torch.full((50, 1, 28, 28), 0.5)
    noisy = add_noise(grey, 0.1, torch.Generator().manual_seed(0))
    assert noisy.std().item() == pytest.approx(0.1, rel=0.02) and noisy.mean().item() == pytest.approx(0.5, abs=0.01)
    assert add_noise(grey, 5.0).min() == 0 and add_noise(grey, 5.0).max() == 1
    assert not torch.equal(add_noise(grey, 0.1), add_noise(grey, 0.1))
    assert torch.equal(grey, torch.full_like(grey, 0.5))


def test_binarized_pixels_are_white_as_often_as_they_are_bright_and_always_the_same():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(20_000, 1)
    binary = binarized(images, seed=1)
    assert to_float(images)[0].tolist() == pytest.approx([0, 0.2, 1])
    assert set(binary.unique().tolist()) == {0, 255}
    assert (binary / 255).mean(dim=0).tolist() == pytest.approx([0, 0.2, 1], abs=0.02)
    assert torch.equal(binary, binarized(images, seed=1)) and not torch.equal(binary, binarized(images, seed=2))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (12, 4), (7, 7), (100, 9)])
def test_an_epoch_visits_every_image_once_in_equal_shares_and_an_order_set_by_the_seed(count, batch_size, world):
    """But for fewer images than there are processes."""

    def batches(seed):
        shares = [shuffled_batches(count, batch_size, seed, torch.device("cpu"), rank, world) for rank in range(world)]
        steps = list(zip(*shares, strict=True))
        assert len(steps) == -(-count // batch_size)
        sizes = [[len(part) for part in step] for step in steps]
        assert all(len(set(step)) == 1 for step in sizes), "every process has as much to do"
        totals = [sum(step) for step in sizes]
        assert max(totals) <= batch_size + world - 1 and max(totals) - min(totals) <= world
        return torch.cat([part for step in steps for part in step]).tolist()

    visited = batches(1)
    assert len(visited) == len(set(visited)) == count - count % world and set(visited) <= set(range(count))
    assert visited == batches(1) != batches(2)
    alone = torch.cat([*shuffled_batches(count, batch_size, 1, torch.device("cpu"))]).tolist()
    assert sorted(visited) == sorted(alone[: count - count % world]), "the same order for any number of processes"


def test_streams_of_random_numbers_differ():
    seeds = {stream_seed(seed, name, epoch) for seed in range(5) for name in "ab" for epoch in range(5)}
    assert len(seeds) == 50

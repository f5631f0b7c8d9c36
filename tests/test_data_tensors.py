"""Operations on tensors of images."""

import pytest
import torch

from common.data.tensors import add_noise, binarized, random_flip, select, shuffled_batches, stream_seed, to_float


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
    assert set(binary.unique().tolist()) == {0, 255}
    assert (binary / 255).mean(dim=0).tolist() == pytest.approx([0, 0.2, 1], abs=0.02)
    assert torch.equal(binary, binarized(images, seed=1)) and not torch.equal(binary, binarized(images, seed=2))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (12, 4), (1, 5), (5, 5)])
def test_batches_visit_every_image_once_in_an_order_set_by_the_seed(count, batch_size):
    def order(seed):
        batches = list(shuffled_batches(count, batch_size, seed, torch.device("cpu")))
        sizes = [len(batch) for batch in batches]
        assert len(sizes) == -(-count // batch_size) and max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
        return torch.cat(batches).tolist()

    assert sorted(order(1)) == list(range(count))
    assert order(1) == order(1)
    if count > 5:
        assert order(1) != order(2)


def test_streams_of_random_numbers_differ():
    seeds = {stream_seed(seed, name, epoch) for seed in range(5) for name in "ab" for epoch in range(5)}
    assert len(seeds) == 50


def test_grey_levels_are_scaled_to_0_to_1():
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])

"""The benchmark: both ways of training run, and ratios are of the usual way's seconds to ours."""

import torch
from measure import benchmark
from torch.utils.data import TensorDataset

CPU = torch.device("cpu")


def test_both_ways_train(tmp_path):
    images = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8)
    assert benchmark.our_seconds(benchmark.AE, images, CPU, tmp_path, "fp32") > 0
    assert benchmark.usual_seconds(benchmark.AE, TensorDataset(images / 255, torch.zeros(64)), 0, CPU) > 0


def test_the_ratio_is_the_median_of_the_rounds_after_the_first():
    usual = iter([9.0, 2.0, 4.0, 3.0])
    found = benchmark.ratios(lambda: 1.0, lambda: next(usual), rounds=3)
    assert found == {"ours": 1, "usual": 3, "ratio": 3, "range": [2, 4]}

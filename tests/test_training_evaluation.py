"""Evaluation in batches."""

import pytest
import torch
from conftest import IMAGES, Mean, squared_error

from common.training import evaluation

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [1, 3, 10, 500])
def test_evaluation_does_not_depend_on_the_batch_size(monkeypatch, batch):
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", batch)
    scores = evaluation.evaluate(Mean(), squared_error, IMAGES)
    assert scores["loss"] == pytest.approx((IMAGES.double() / 255).square().mean().item(), rel=1e-6)


def test_evaluation_draws_the_same_noise_whatever_was_drawn_before():
    def noise(model, images):
        return {"noise": torch.rand(len(images))}

    first = evaluation.evaluate(Mean(), noise, IMAGES)
    before = torch.get_rng_state()
    assert evaluation.evaluate(Mean(), noise, IMAGES) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batched_function_keeps_the_order_and_the_rows(monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 3)
    result = evaluation.batched(lambda batch: batch.flatten(1)[:, :2], CPU)(IMAGES)
    torch.testing.assert_close(result, IMAGES.flatten(1)[:, :2] / 255)
    first, second = evaluation.batched(lambda batch: (batch, batch + 1), CPU)(IMAGES)
    torch.testing.assert_close(second, first + 1)

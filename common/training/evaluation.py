"""A trained model applied to any number of images, in batches and in fp32."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.data.tensors import to_float

EVALUATION_SEED = 2014  # The noise of an evaluation is the same whatever the run's seed.
EVALUATION_BATCH = 500


@torch.inference_mode()
def evaluate(model: nn.Module, loss: Callable, images: Tensor, device: torch.device) -> dict[str, float]:
    """The mean of each term of `loss(model, batch)` over `images` (N, C, H, W) uint8, with noise of a fixed seed.

    The model is left in evaluation mode.
    """
    torch.manual_seed(EVALUATION_SEED)
    model.eval()
    terms = [loss(model, to_float(batch.to(device))) for batch in images.split(EVALUATION_BATCH)]
    # One transfer per term: reading each batch's values would make the host wait for the device every time.
    return {name: torch.cat([found[name] for found in terms]).cpu().double().mean().item() for name in terms[0]}


def batched(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """`function` for any number of inputs: it gets them in batches on `device`; the results are on the CPU.

    uint8 images (N, C, H, W) are scaled to [0, 1] first; other inputs are passed on unchanged.
    """

    @torch.inference_mode()
    def over_all(inputs: Tensor) -> Tensor:
        batches = (batch.to(device) for batch in inputs.split(EVALUATION_BATCH))
        floats = (to_float(batch) if batch.dtype == torch.uint8 else batch for batch in batches)
        return torch.cat([function(batch).float() for batch in floats]).cpu()

    return over_all

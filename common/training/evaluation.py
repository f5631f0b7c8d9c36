"""A trained model applied to any number of images, in batches and in fp32."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.data.batches import to_float

EVALUATION_SEED = 2014  # The noise of an evaluation is the same whatever the run's seed.
EVALUATION_BATCH = 500


@torch.inference_mode()
def evaluate(model: nn.Module, loss: Callable, images: Tensor, **options) -> dict[str, float]:
    """The mean of each term of `loss(model, batch, **options)` over `images` (N, C, H, W) uint8; it calls eval()."""
    model.eval()
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(EVALUATION_SEED)
        terms = [loss(model, to_float(batch.to(device)), **options) for batch in images.split(EVALUATION_BATCH)]
    # One transfer per term: reading each batch's values would make the host wait for the device every time.
    return {name: torch.cat([found[name] for found in terms]).cpu().double().mean().item() for name in terms[0]}


def batched(function: Callable, device: torch.device) -> Callable:
    """`function` for any number of inputs, in batches on `device`, uint8 ones in [0, 1]; results are on the CPU."""

    @torch.inference_mode()
    def over_all(inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        convert = to_float if inputs.dtype == torch.uint8 else lambda batch: batch
        results = [function(convert(batch.to(device))) for batch in inputs.split(EVALUATION_BATCH)]
        if isinstance(results[0], Tensor):
            return torch.cat(results).cpu()
        return tuple(torch.cat(parts).cpu() for parts in zip(*results, strict=True))

    return over_all

"""The work of a run on CUDA with fake tensors: they have a device, a type and a layout but no values; no GPU is needed.

It fails where tensors of two devices meet, and where a training step reads a value or copies to the host.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist
from common import training
from common.data.batches import gather, random_flip, shuffled_batches, to_float

CUDA = torch.device("cuda")
MODELS = {
    "ae": (vanilla_ae, lambda: vanilla_ae.Autoencoder(2), (1, 28, 28)),
    "vae": (vanilla_vae_mnist, lambda: vanilla_vae_mnist.VariationalAutoencoder(2), (1, 28, 28)),
    "faces": (vanilla_vae_celeba, lambda: vanilla_vae_celeba.VariationalAutoencoder(16, 32), (3, 32, 32)),
}


class OnDevice(TorchDispatchMode):
    """Raises at an operation for which the host would wait, or that leaves the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"cuda"}, function
        assert "_local_scalar_dense" not in str(function) and "nonzero" not in str(function), function
        return result


@pytest.mark.parametrize("name", MODELS)
def test_a_step_stays_on_the_gpu(name):
    script, build, shape = MODELS[name]
    with FakeTensorMode():
        with CUDA:
            model = build()
        layout = training.memory_format(CUDA)
        for weight in model.parameters():
            weight.data = weight.data.to(memory_format=layout) if weight.ndim == 4 else weight.data
        images = torch.zeros(20, *shape, dtype=torch.uint8, device=CUDA).to(memory_format=layout)
        muon = [weight for weight in model.parameters() if weight.ndim > 1][1:-1]
        optimizer = training.Optimizer(model, muon, lr=1e-3, muon_decay=0.1)
        index = next(shuffled_batches(20, 8, 0, CUDA))
        with OnDevice():
            batch = random_flip(to_float(gather(images, index)))
            assert batch.is_contiguous(memory_format=layout)
            terms = script.loss(model.train(), batch)
            assert all(term.shape == (7,) and term.dtype == torch.float32 for term in terms.values())
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight)
            for _ in range(2):
                optimizer.step()


def test_scores_and_standardized_codes_come_from_the_gpu(monkeypatch):
    script, build, shape = MODELS["faces"]
    monkeypatch.setattr(torch.Tensor, "item", lambda value: value.dtype)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: torch.no_grad())
    with FakeTensorMode():
        with CUDA:
            model = build()
        images = torch.zeros(20, *shape, dtype=torch.uint8)
        scores = training.evaluate(model, script.loss, images)
        assert set(scores.values()) == {torch.float64}  # on the host: MPS has no float64
        codes = training.batched(model.encode, CUDA)(images)
        assert [part.shape for part in codes] == [(20, 16)] * 2 and {part.device.type for part in codes} == {"cpu"}
        script.standardize(model, *codes)
        assert {weight.device.type for weight in model.parameters()} == {"cuda"}

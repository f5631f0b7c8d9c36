"""The layers of a page: each kind computes in Chromium as in PyTorch, and layers that it doesn't know are refused."""

import pytest
import torch
from browser import Page
from torch import nn

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist
from common.explorer import layers
from common.explorer.page import FOLDER, NoPage

OWN = {vanilla_vae_mnist.Residual: "Residual", vanilla_vae_celeba.Norm: "GroupNorm"}

LAYERS = {
    "linear": (nn.Linear(7, 5), (7,)),
    "layernorm": (nn.LayerNorm(6), (6,)),
    "residual": (vanilla_vae_mnist.Residual(7, 7), (7,)),
    "silu": (nn.SiLU(), (6,)),
    "convolution": (nn.Conv2d(3, 6, 3, padding=1), (3, 5, 7)),
    "strided": (nn.Conv2d(2, 5, 4, stride=2, padding=1), (2, 6, 8)),
    "oblong": (nn.Conv2d(4, 1, (3, 2), stride=(2, 1), padding=(0, 2)), (4, 5, 3)),
    "groupnorm": (nn.GroupNorm(4, 16), (16, 3, 5)),
    "norm": (vanilla_vae_celeba.Norm(4, 16), (16, 3, 5)),
    "pixelshuffle": (nn.PixelShuffle(2), (12, 2, 3)),
    "flatten": (nn.Flatten(), (3, 2, 4)),
    "unflatten": (nn.Unflatten(1, (3, 2, 4)), (24,)),
}


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    path = tmp_path_factory.mktemp("layers") / "layers.html"
    text = (FOLDER / "layers.js").read_text(encoding="utf-8")
    path.write_text(f'<meta charset="utf-8"><script>{text}\nconst ready = Promise.resolve();</script>')
    return Page(chromium, path)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bits", [8, 11])
def test_each_kind_computes_as_pytorch_does(page, kind, bits):
    (layer, shape), generator = LAYERS[kind], torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(1, *shape, generator=generator)
    with torch.no_grad():
        exact, (written, expected) = layer(inputs), layers.network(layer, inputs, bits, OWN)
    script = "const done = arguments[2]; load(arguments[0]).then(() => done([...run(arguments[0], arguments[1])]));"
    channels_last = inputs.movedim(1, -1).flatten().tolist()
    found = torch.tensor(page.browser.execute_async_script(script, written, channels_last))
    torch.testing.assert_close(found, expected.movedim(1, -1).flatten(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(expected, exact, rtol=0, atol=8 * exact.std().item() / 2**bits)


# They compute something else than what they are derived from, and their names say nothing.
PARALLEL = type("Sequential", (nn.Sequential,), {"forward": lambda self, inputs: inputs + self[0](inputs)})
DOUBLED = type("Residual", (vanilla_vae_mnist.Residual,), {"forward": lambda self, inputs: 2 * inputs})


@pytest.mark.parametrize(
    "network",
    [
        nn.GELU(),
        DOUBLED(4, 4),
        vanilla_ae.Residual(4, 4),  # only the other script's is handed over
        nn.Linear(4, 4, bias=False),
        PARALLEL(nn.Linear(4, 4)),
        nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 4, 1, groups=2)),
        nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")),
        nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 3, padding="same")),
    ],
)
def test_layers_that_the_page_does_not_know_are_refused(network):
    with pytest.raises(NoPage):
        model = nn.ModuleDict({"encoder": network, "decoder": nn.Linear(4, 4)})
        layers.write(model, torch.rand(2, 4), torch.rand(2, 4), levels=torch.sigmoid, bound=0.1, own_layers=OWN)

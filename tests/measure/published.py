"""Recipes for autoencoders and VAEs that many people start from, in our own words, from their published settings.

Their networks have the scripts' interface, so that the scripts' functions score them: a VAE's `encode` gives mean and
log-variance, `decode` the logits of digits, or the pixels of faces. They train in fp32, as they were published, on the
training split alone.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from common.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained.

    loss: of a model and a batch in [0, 1], the number to minimize.
    optimizer: made from the parameters.
    published, epochs: the published number of epochs; how many of them are measured here.
    schedule: made from the optimizer, the steps per epoch and the epochs; stepped after every batch.
    cycle: whether that is a cycle over the whole run, at whose end alone the network is as good as it can be.
    loader: whether its batches come from torchvision's files through a DataLoader, or from one tensor on the device.
    """

    name: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    published: int
    epochs: int
    schedule: Callable[[torch.optim.Optimizer, int, int], LRScheduler] | None = None
    cycle: bool = False
    loader: bool = False

    def train(
        self, model: nn.Module, batches: Iterator[Iterable[Tensor]], images: int, epochs: int
    ) -> Iterator[tuple[int, float]]:
        """Train `model` on `batches`, an iterable for each epoch; yields the epochs done and the seconds they took."""
        optimizer = self.optimizer(model.parameters())
        steps = math.ceil(images / self.batch_size)
        scheduler = self.schedule(optimizer, steps, epochs) if self.schedule else None
        seconds = 0.0
        for epoch in range(1, epochs + 1):
            began, total = time.perf_counter(), 0.0
            model.train()
            for batch in next(batches):
                optimizer.zero_grad()
                loss = self.loss(model, batch)
                loss.backward()
                total += loss.item() if self.loader else 0.0  # The usual loop reports its loss in every step.
                optimizer.step()
                if scheduler:
                    scheduler.step()
            if not math.isfinite(loss.item()):
                raise UserError(f"{self.name}: the loss is {loss.item()} after epoch {epoch}")
            seconds += time.perf_counter() - began
            yield epoch, seconds


Batches = Callable[[Recipe], Iterator[Iterable[Tensor]]]


class GaussianCoder(nn.Module):
    """A VAE built from a body (B, C, S, S) -> (B, features), two heads on it, and a decoder (B, D) -> (B, C, S, S)."""

    def __init__(self, body: nn.Module, features: int, latent_dim: int, decoder: nn.Module):
        super().__init__()
        self.body, self.decoder = body, decoder
        self.mean, self.log_variance = nn.Linear(features, latent_dim), nn.Linear(features, latent_dim)
        self.register_buffer("variance", torch.ones(()))  # the face script's loss needs it; no score uses it

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(images)
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)


class Coder(nn.Module):
    """An autoencoder built from two halves."""

    def __init__(self, encode: nn.Module, decode: nn.Module):
        super().__init__()
        self.encode, self.decode = encode, decode


def sampled(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The decoded sample of q(z|x), and the KL (B,)."""
    mean, log_variance = model.encode(images)
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
    return model.decode(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)), kl


def neg_elbo(model: nn.Module, images: Tensor) -> Tensor:
    """-ELBO (B,), with the cross-entropy computed from probabilities, as both examples of digits do."""
    logits, kl = sampled(model, images)
    return F.binary_cross_entropy(logits.sigmoid(), images, reduction="none").flatten(1).sum(dim=1) + kl


def neg_elbo_of_logits(model: nn.Module, images: Tensor) -> Tensor:
    """-ELBO (B,), with the cross-entropy computed from logits, which is exact."""
    logits, kl = sampled(model, images)
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1) + kl


def mlp(*sizes: int) -> list[nn.Module]:
    """Linear layers with ReLU after each."""
    return [part for inputs, outputs in itertools.pairwise(sizes) for part in (nn.Linear(inputs, outputs), nn.ReLU())]


def perceptron(*hidden: int, latent_dim: int) -> nn.Module:
    """784-HIDDEN-D-HIDDEN-784, with ReLU."""
    body = nn.Sequential(nn.Flatten(), *mlp(784, *hidden))
    decoder = [*mlp(latent_dim, *reversed(hidden)), nn.Linear(hidden[0], 784), nn.Unflatten(1, (1, 28, 28))]
    return GaussianCoder(body, hidden[-1], latent_dim, nn.Sequential(*decoder))


def one_cycle(peak: float) -> Callable[[torch.optim.Optimizer, int, int], LRScheduler]:
    return lambda optimizer, steps, epochs: OneCycleLR(optimizer, peak, total_steps=steps * epochs)


def pytorch(our_data_path: bool = False) -> Recipe:
    """PyTorch's own example, github.com/pytorch/examples, vae/main.py.

    784-400-20 with ReLU, Adam at 1e-3, batches of 128 from a DataLoader, the sum of the -ELBO as the loss, its value
    read in every step; 10 epochs. With `our_data_path` the same network and epochs from a uint8 tensor on the device,
    by a fused AdamW in one cycle.
    """
    build, size = (lambda: perceptron(400, latent_dim=20)), 128
    if our_data_path:
        return Recipe(
            "PyTorch's example, our data path, one cycle", build,
            lambda model, batch: neg_elbo_of_logits(model, batch).mean(),
            lambda weights: torch.optim.AdamW(weights, fused=True), size, 10, 10, one_cycle(4e-3), cycle=True,
        )  # fmt: skip
    return Recipe(
        "PyTorch's example", build, lambda model, batch: neg_elbo(model, batch).sum(),
        lambda weights: torch.optim.Adam(weights, 1e-3), size, 10, 10, loader=True,
    )  # fmt: skip


def plain(*hidden: int, latent_dim: int) -> Recipe:
    """What a daily practitioner might write in twenty lines; nobody's in particular.

    Linear layers with ReLU, a uint8 tensor on the device, a fused AdamW in one cycle, batches of 256, 10 epochs. Its
    learning rate is the best of 1e-3, 2e-3, 4e-3 and 8e-3 on held-out training digits.
    """
    return Recipe(
        f"plain {'-'.join(map(str, (784, *hidden, latent_dim)))}", lambda: perceptron(*hidden, latent_dim=latent_dim),
        lambda model, batch: neg_elbo_of_logits(model, batch).mean(),
        lambda weights: torch.optim.AdamW(weights, fused=True), 256, 10, 10, one_cycle(4e-3), cycle=True,
    )  # fmt: skip


def as_keras(model: nn.Module) -> nn.Module:
    """Keras' initial weights: Glorot & Bengio's uniform ones, and no biases."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return model


def keras_adam(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Keras' Adam with its default settings."""
    return torch.optim.Adam(weights, 1e-3, eps=1e-7)


def up(inputs: int, outputs: int, stride: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution of 3x3 that makes maps `stride` times as large."""
    return nn.ConvTranspose2d(inputs, outputs, 3, stride, padding=1, output_padding=stride - 1)


def keras() -> Recipe:
    """Keras' example by François Chollet, keras.io/examples/generative/vae.

    Convolutions of 32 and 64 channels with stride 2, a dense layer of 16, two dimensions, transposed convolutions back;
    Adam, batches of 128, 30 epochs. It trains on the test digits too; here, on the training digits alone.
    """

    def build() -> nn.Module:
        convolutions = [nn.Conv2d(1, 32, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, padding=1), nn.ReLU()]
        body = nn.Sequential(*convolutions, nn.Flatten(), *mlp(64 * 7 * 7, 16))
        back = [*mlp(2, 64 * 7 * 7), nn.Unflatten(1, (64, 7, 7)), up(64, 64), nn.ReLU(), up(64, 32), nn.ReLU()]
        return as_keras(GaussianCoder(body, 16, 2, nn.Sequential(*back, up(32, 1, stride=1))))

    loss = lambda model, batch: neg_elbo(model, batch).mean()  # noqa: E731
    return Recipe("Keras' example", build, loss, keras_adam, 128, 30, 30)


def parametric_umap() -> Recipe:
    """The autoencoder that the Parametric UMAP paper compares with (Sainburg, McInnes & Gentner 2021).

    github.com/timsainb/ParametricUMAP_paper, mnist-ae-only-embedding.ipynb: convolutions of 64 and 128 channels with
    stride 2 and no padding, a dense layer of 512, two dimensions; back by dense layers and transposed convolutions.
    Adam on the cross-entropy, averaged over pixels; batches of 256, 50 epochs.
    """

    def build() -> nn.Module:
        convolutions = [nn.Conv2d(1, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 128, 3, 2), nn.ReLU(), nn.Flatten()]
        encoder = nn.Sequential(*convolutions, *mlp(128 * 6 * 6, 512), nn.Linear(512, 2))
        back = [*mlp(2, 512, 256 * 7 * 7), nn.Unflatten(1, (256, 7, 7)), up(256, 128), nn.ReLU(), up(128, 64)]
        return as_keras(Coder(encoder, nn.Sequential(*back, nn.ReLU(), up(64, 1, stride=1), nn.Sigmoid())))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return F.binary_cross_entropy(model.decode(model.encode(batch)), batch)

    return Recipe("Parametric UMAP's autoencoder", build, loss, keras_adam, 256, 50, 3)


def pytorch_vae() -> Recipe:
    """The vanilla VAE of the best-known collection, github.com/AntixK/PyTorch-VAE, with its configs/vae.yaml.

    Convolutions of 32 to 512 channels with stride 2, each with BatchNorm and LeakyReLU, 128 dimensions, transposed
    convolutions back, tanh; the mean squared error of the pixels in [0, 1] plus 0.00025 KL, mirrored faces, Adam at
    0.005 decayed by 0.95 per epoch, batches of 64, 100 epochs.
    """
    channels = (32, 64, 128, 256, 512)

    def with_norm(layer: nn.Module, outputs: int) -> list[nn.Module]:
        return [layer, nn.BatchNorm2d(outputs), nn.LeakyReLU()]

    def build() -> nn.Module:
        body, back = [], [nn.Linear(128, 512 * 4), nn.Unflatten(1, (512, 2, 2))]
        for inputs, outputs in itertools.pairwise((3, *channels)):
            body += with_norm(nn.Conv2d(inputs, outputs, 3, 2, padding=1), outputs)
        for inputs, outputs in itertools.pairwise((*reversed(channels), 32)):
            back += with_norm(up(inputs, outputs), outputs)
        decoder = nn.Sequential(*back, nn.Conv2d(32, 3, 3, padding=1), nn.Tanh())
        return GaussianCoder(nn.Sequential(*body, nn.Flatten()), 512 * 4, 128, decoder)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        pictures, kl = sampled(model, batch)
        return F.mse_loss(pictures, batch) + 0.00025 * kl.mean()

    def decay(optimizer: torch.optim.Optimizer, steps: int, epochs: int) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: 0.95 ** (step // steps))

    adam = lambda weights: torch.optim.Adam(weights, 0.005)  # noqa: E731
    return Recipe("PyTorch-VAE's vanilla VAE", build, loss, adam, 64, 100, 5, decay)

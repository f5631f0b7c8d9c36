"""An autoencoder on MNIST with a two-dimensional latent space.

python vanilla_ae.py                          train, then write images/1.png, images/2.png and the other figures
python vanilla_ae.py --epochs 2 --limit 5000  a quick try
python vanilla_ae.py --latent-dim 32          a larger latent space; its map shows principal components
python vanilla_ae.py --latent-dim 32 --noise 0.5      restore clean digits from noisy ones
python vanilla_ae.py --resume                 continue after an interruption, or draw the figures again
"""

import functools
from argparse import Namespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import cli, training
from common.data.digits import DATASETS, load_digits
from common.data.tensors import add_noise, to_float
from common.figures import digit_page
from common.figures.digits import DigitFigures, draw_denoising
from common.metrics import knn_accuracy

SCRIPT = "vanilla_ae"

EPOCHS = 35
BATCH_SIZE = 512  # at most: short runs take smaller batches
LEARNING_RATE = 2e-3  # the peak in a run of 4,000 steps; shorter runs take a higher rate, longer ones a lower rate
LATENT_DIM = 2  # so that it can be drawn
FREQUENCIES = 64  # of the decoder's sines and cosines


class FourierFeatures(nn.Module):
    """Sines and cosines of learned projections of the latent vector, (B, D) -> (B, 2 * FREQUENCIES).

    They let a decoder of two numbers form sharp features from the start (Tancik et al. 2020, "Fourier Features Let
    Networks Learn High Frequency Functions in Low Dimensional Domains"): the squared error falls by 1 to 3%, and
    the 5-NN accuracy rises by 2 points. The VAE's latent space is smooth and gains nothing from them.
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        # For codes of unit variance, the phases start with the same spread in any number of dimensions.
        self.directions = nn.Parameter(torch.randn(FREQUENCIES, latent_dim) * (2 / latent_dim) ** 0.5)

    def forward(self, latent: Tensor) -> Tensor:
        # Not a matrix product: autocast would compute it in bf16, too coarse for phases beyond 16 radians.
        phase = (latent[:, None] * self.directions).sum(dim=2)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Autoencoder(nn.Module):
    """784 grey levels -> `latent_dim` numbers -> 784 grey levels (Hinton & Salakhutdinov 2006)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(),  # below, each line is a layer and its activation
            *(nn.Linear(784, 512), nn.SiLU()),
            *(nn.Linear(512, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            nn.LayerNorm(128),  # bounds the codes: otherwise clusters stretch into rays that crowd at the origin
            nn.Linear(128, latent_dim),
        )
        self.decoder = nn.Sequential(
            FourierFeatures(latent_dim),
            *(nn.Linear(2 * FREQUENCIES, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            *(nn.Linear(128, 128), nn.SiLU()),
            *(nn.Linear(128, 512), nn.SiLU()),
            nn.Linear(512, 784),
        )

    def encode(self, images: Tensor) -> Tensor:
        """Grey levels in [0, 1] (B, 1, 28, 28) -> latent vectors (B, D)."""
        return self.encoder(images).float()

    def decode(self, latent: Tensor) -> Tensor:
        """Latent vectors (B, D) -> grey levels in [0, 1] (B, 1, 28, 28)."""
        # In fp32: bf16 would round a sigmoid near 1 to 1, where its gradient is zero.
        return self.decoder(latent).float().sigmoid().view(-1, 1, 28, 28)


def loss(model: Autoencoder, images: Tensor, noise: float = 0.0) -> dict[str, Tensor]:
    """The squared error summed over pixels, which is minimized, and its mean, which is reported; (B,) each.

    With `noise`, the encoder sees images with fresh noise every time, and the decoder must reproduce the clean ones
    (Vincent et al. 2010, "Stacked Denoising Autoencoders").
    """
    inputs = add_noise(images, noise) if noise else images
    reconstruction = model.decode(model.encode(inputs))
    # The VAE minimizes a cross-entropy instead: its pixels are Bernoulli variables.
    squared_error = F.mse_loss(reconstruction, images, reduction="none").flatten(1).sum(dim=1)
    return {"loss": squared_error, "mse": squared_error / images[0].numel()}


def parse_args(argv: list[str] | None = None) -> Namespace:
    flags = cli.parser(SCRIPT, __doc__, epochs=EPOCHS, latent_dim=LATENT_DIM)
    flags.add_argument("--dataset", choices=DATASETS, default="MNIST", help="the data set, by its torchvision name")
    flags.add_argument("--noise", type=cli.non_negative_float, default=0.0, metavar="SIGMA", help="learn to remove "
                       "Gaussian noise of this standard deviation")  # fmt: skip
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with training.start(SCRIPT, args) as run:
        train, test = load_digits(args.dataset, args.data_dir)
        images = train.images[: args.limit].to(run.device)
        batch_size = args.batch_size or training.batch_size(len(images), args.epochs, most=BATCH_SIZE)
        lr = args.lr or training.learning_rate(len(images), args.epochs, batch_size, long=LEARNING_RATE)
        model = Autoencoder(args.latent_dim).to(run.device)
        compute_loss = run.prepare(model, functools.partial(loss, noise=args.noise), trial=images[:batch_size])
        optimizer = training.Optimizer(model, lr, run.precision)  # Muon and AdamW, with one learning-rate cycle

        for epoch in run.epochs(model, optimizer, images, batch_size):
            for batch in epoch:  # (B, 1, 28, 28) in [0, 1]; each batch sets the learning rate
                terms = epoch.mean(compute_loss(batch))  # over the batch; the epoch keeps its own means
                optimizer.zero_grad()
                terms["loss"].backward()
                optimizer.step()

        encode, decode = run.batched(model.encode), run.batched(model.decode)  # of many uint8 images, or codes
        latent = encode(test.images)
        scores = {
            "mse": (decode(latent) - to_float(test.images)).square().mean().item(),
            "knn": knn_accuracy(encode(images), train.labels[: args.limit], latent, test.labels),
        }
        title = ("Denoising autoencoder" if args.noise else "Autoencoder") + f" on {args.dataset}"
        subtitle = f"test MSE {scores['mse']:.4f}, 5-NN accuracy {scores['knn']:.1%}"
        figures = DigitFigures(title, subtitle, args.images_dir, SCRIPT, test, latent, decode)
        if args.noise:
            path = figures.path("denoising")
            scores |= draw_denoising(test, args.noise, lambda noisy: decode(encode(noisy)), path)
        run.write_results(args.dataset, scores)

        figures.map(args.images_dir / "1.png")
        figures.interpolation(args.images_dir / "2.png")
        figures.reconstructions()
        figures.manifold()
        figures.curves(run.history, {"mse": "mean squared error (grey levels)"})
        page = args.images_dir / f"{SCRIPT}_explorer.html"
        digit_page.write(page, test, latent, model.encoder, model.decoder, title, prior=False)
        print(f"Open {args.images_dir / '1.png'} first.")


if __name__ == "__main__":
    cli.run(main)

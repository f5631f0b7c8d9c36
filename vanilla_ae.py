"""An autoencoder on MNIST with a two-dimensional latent space.

python vanilla_ae.py                          train, then write images/1.png, images/2.png and their siblings
python vanilla_ae.py --epochs 2 --limit 5000  a quick try
python vanilla_ae.py --latent-dim 32          a larger latent space; its map shows principal components
python vanilla_ae.py --latent-dim 32 --noise 0.5      restore clean digits from noisy ones
python vanilla_ae.py --resume                 go on after an interruption, or draw the figures again
"""

import functools
import itertools
from argparse import Namespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import cli
from common.training import run as training
from common.data.digits import DATASETS, load_digits
from common.figures.digits import draw_denoising, draw_digit_figures
from common.latent import knn_accuracy
from common.metrics import add_noise

SCRIPT = "vanilla_ae"

EPOCHS = 50
BATCH_SIZE = 2048  # Muon's cost is by the step, and it takes large batches well
LEARNING_RATE = 4e-3
LATENT_DIM = 2  # what can be drawn
WIDTHS = (512, 128, 128, 128)  # of the encoder's layers; the decoder mirrors them
FREQUENCIES = 64  # of the decoder's sines and cosines


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes, with ReLU between them."""
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Waves(nn.Module):
    """Sines and cosines of learned directions of the latent space, (B, D) -> (B, 2 * FREQUENCIES).

    A plain network bends a two-dimensional input too slowly to draw ten different digits from it; waves give
    it sharp features from the start (Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency
    Functions in Low Dimensional Domains").
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        # In any number of dimensions, the phases then spread as much as in two.
        self.directions = nn.Parameter(torch.randn(FREQUENCIES, latent_dim) * (2 / latent_dim) ** 0.5)

    def forward(self, latent: Tensor) -> Tensor:
        phase = latent @ self.directions.T
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Autoencoder(nn.Module):
    """784 grey levels -> `latent_dim` numbers -> 784 logits (Hinton & Salakhutdinov 2006)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        # Nothing else bounds the codes, and clusters would become rays, crowded in the middle of the map.
        bound = nn.LayerNorm(WIDTHS[-1])
        self.encoder = nn.Sequential(mlp(784, *WIDTHS), nn.ReLU(), bound, nn.Linear(WIDTHS[-1], latent_dim))
        self.decoder = nn.Sequential(Waves(latent_dim), mlp(2 * FREQUENCIES, *reversed(WIDTHS), 784))

    def hidden_weights(self) -> list[nn.Parameter]:
        """The matrices between hidden layers, neither the pixels' nor the latent space's."""
        halves = (self.encoder, self.decoder)
        linear = [[layer.weight for layer in half.modules() if isinstance(layer, nn.Linear)] for half in halves]
        return [*linear[0][1:-1], *linear[1][1:-1]]

    def encode(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) grey levels in [0, 1] -> latent (B, D)."""
        return self.encoder(images.flatten(1)).float()

    def decode(self, latent: Tensor) -> Tensor:
        """latent (B, D) -> logits (B, 1, 28, 28); their sigmoid is the picture."""
        return self.decoder(latent).view(-1, 1, 28, 28)


def loss(model: Autoencoder, images: Tensor, noise: float = 0.0) -> dict[str, Tensor]:
    """The squared error of the reconstruction, summed over pixels to train on, averaged to report; (B,) each.

    With `noise` the encoder sees noisy images, a new draw every time, and the decoder has to give the clean ones
    (Vincent et al. 2010, "Stacked Denoising Autoencoders").
    """
    reconstruction = model.decode(model.encode(add_noise(images, noise) if noise else images)).sigmoid()
    squared_error = F.mse_loss(reconstruction, images, reduction="none").flatten(1).sum(dim=1)
    return {"loss": squared_error, "mse": squared_error / images[0].numel()}


def parse_args(argv: list[str] | None = None) -> Namespace:
    flags = cli.parser(SCRIPT, __doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LEARNING_RATE, latent_dim=LATENT_DIM)
    flags.add_argument("--dataset", choices=DATASETS, default="MNIST", help="torchvision's name of the data set")
    flags.add_argument(
        "--noise",
        type=cli.non_negative_float,
        default=0.0,
        metavar="SIGMA",
        help="learn to remove Gaussian noise of this standard deviation, clipped to [0, 1]",
    )
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with training.start(SCRIPT, args) as run:
        train, test = load_digits(args.dataset, args.data_dir)
        images = train.images[: args.limit].to(run.device)
        model = Autoencoder(args.latent_dim).to(run.device)
        objective = functools.partial(loss, noise=args.noise)
        history = training.fit(model, objective, images, run, model.hidden_weights())

        def encode(images: Tensor) -> Tensor:
            return training.compute(model.encode, images, run.device)

        def decode(latent: Tensor) -> Tensor:
            return training.compute(lambda batch: model.decode(batch).sigmoid(), latent, run.device)

        train_latent, latent = encode(images), encode(test.images)
        scores = {
            "mse": training.evaluate(model, loss, test.images, run.device)["mse"],
            "knn": knn_accuracy(train_latent, train.labels[: args.limit], latent, test.labels),
        }
        if args.noise:
            path = args.images_dir / f"{SCRIPT}_denoising.png"
            scores |= draw_denoising(test, args.noise, lambda noisy: decode(encode(noisy)), path)
        training.write_results(run, args.dataset, len(images), history, scores)
        draw_digit_figures(
            test,
            latent,
            decode,
            model.decoder,
            history=history,
            curves={"mse": "mean squared error (grey levels)"},
            model=("Denoising autoencoder" if args.noise else "Autoencoder") + f" on {args.dataset}",
            scores=f"test MSE {scores['mse']:.4f}, accuracy of 5 nearest neighbours {scores['knn']:.1%}",
            paths={
                "explorer": args.images_dir / f"{SCRIPT}_explorer.html",
                "map": args.images_dir / "1.png",
                "interpolation": args.images_dir / "2.png",
                **{
                    name: args.images_dir / f"{SCRIPT}_{name}.png" for name in ("reconstructions", "manifold", "curves")
                },
            },
            prior=False,
        )


if __name__ == "__main__":
    cli.run(main)

"""A variational autoencoder on MNIST with a two-dimensional latent space.

python vanilla_vae_mnist.py                     train, then write images/3.png and its siblings
python vanilla_vae_mnist.py --epochs 2 --limit 5000     a quick try
python vanilla_vae_mnist.py --latent-dim 20     a larger latent space, for better likelihoods
python vanilla_vae_mnist.py --beta 4            weigh the KL term more (Higgins et al. 2017)
python vanilla_vae_mnist.py --resume            go on after an interruption, or draw the figures again
"""

import functools
import itertools
import sys
from argparse import Namespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import cli
from common.training import run as training
from common.data.digits import DATASETS, load_digits
from common.data.tensors import to_float
from common.figures.digits import draw_digit_figures
from common.latent import active_units, kl_divergence, knn_accuracy, log_likelihood, reparameterize

SCRIPT = "vanilla_vae_mnist"

EPOCHS = 50
BATCH_SIZE = 2048  # Muon's cost is by the step, and it takes large batches well
LEARNING_RATE = 4e-3
LATENT_DIM = 2  # what can be drawn
BETA = 1.0  # the evidence lower bound itself
WIDTHS = (512, 128, 128, 128)  # of the encoder's layers; the decoder mirrors them
LIKELIHOOD_SAMPLES = 20  # an image, for the importance-weighted bound


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes, with ReLU between them."""
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class VariationalAutoencoder(nn.Module):
    """784 grey levels -> a Gaussian over `latent_dim` numbers -> 784 logits (Kingma & Welling 2014)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        # As in vanilla_ae.py, where nothing else bounds the codes.
        bound = nn.LayerNorm(WIDTHS[-1])
        self.encoder = nn.Sequential(mlp(784, *WIDTHS), nn.ReLU(), bound, nn.Linear(WIDTHS[-1], 2 * latent_dim))
        self.decoder = mlp(latent_dim, *reversed(WIDTHS), 784)

    def hidden_weights(self) -> list[nn.Parameter]:
        """The matrices between hidden layers, neither the pixels' nor the latent space's."""
        halves = (self.encoder, self.decoder)
        linear = [[layer.weight for layer in half.modules() if isinstance(layer, nn.Linear)] for half in halves]
        return [*linear[0][1:-1], *linear[1][1:-1]]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, 28, 28) grey levels in [0, 1] -> mean and log-variance of q(z|x), (B, D) each."""
        mean, log_variance = self.encoder(images.flatten(1)).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """latent (B, D) -> logits (B, 1, 28, 28); their sigmoid is the picture."""
        return self.decoder(latent).float().view(-1, 1, 28, 28)


def log_probability(model: VariationalAutoencoder, images: Tensor, latent: Tensor) -> Tensor:
    """log p(x|z) of independent Bernoulli pixels in nats, (B,); grey levels count as probabilities."""
    logits = model.decode(latent)
    return -F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1)


def loss(model: VariationalAutoencoder, images: Tensor, beta: float = 1.0) -> dict[str, Tensor]:
    """The negative ELBO and its two terms in nats an image, (B,) each; "loss" weighs the KL by `beta`."""
    mean, log_variance = model.encode(images)
    recon = -log_probability(model, images, reparameterize(mean, log_variance))
    kl = kl_divergence(mean, log_variance).sum(dim=1)
    return {"loss": recon + beta * kl, "neg_elbo": recon + kl, "recon": recon, "kl": kl}


def parse_args(argv: list[str] | None = None) -> Namespace:
    flags = cli.parser(SCRIPT, __doc__, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LEARNING_RATE, latent_dim=LATENT_DIM)
    flags.add_argument("--dataset", choices=DATASETS, default="MNIST", help="torchvision's name of the data set")
    flags.add_argument("--beta", type=cli.non_negative_float, default=BETA, help="weight of the KL; 1 is the ELBO")
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with training.start(SCRIPT, args) as run:
        train, test = load_digits(args.dataset, args.data_dir)
        images = train.images[: args.limit].to(run.device)
        model = VariationalAutoencoder(args.latent_dim).to(run.device)
        history = training.fit(model, functools.partial(loss, beta=args.beta), images, run, model.hidden_weights())

        def encode(images: Tensor) -> Tensor:
            return training.compute(lambda batch: model.encode(batch)[0], images, run.device)

        def decode(latent: Tensor) -> Tensor:
            return training.compute(lambda batch: model.decode(batch).sigmoid(), latent, run.device)

        # Pixels binarised by their grey level, once and for all, as the literature's test images are.
        noise = torch.rand(test.images.shape, generator=torch.Generator().manual_seed(training.EVALUATION_SEED))
        binary = (noise < to_float(test.images)).to(torch.uint8) * 255
        generator = torch.Generator(run.device).manual_seed(training.EVALUATION_SEED)
        bound = functools.partial(
            log_likelihood,
            posterior=model.encode,
            log_probability=functools.partial(log_probability, model),
            samples=LIKELIHOOD_SAMPLES,
            generator=generator,
        )
        grey_terms = training.evaluate(model, loss, test.images, run.device)
        latent = encode(test.images)
        scores = {
            "neg_elbo_grey": grey_terms["neg_elbo"],
            "neg_elbo_binary": training.evaluate(model, loss, binary, run.device)["neg_elbo"],
            "recon_grey": grey_terms["recon"],
            "kl": grey_terms["kl"],
            "active_units": active_units(latent),
            "mse": (decode(latent) - to_float(test.images)).square().mean().item(),
            "knn": knn_accuracy(encode(images), train.labels[: args.limit], latent, test.labels),
            f"log_likelihood_binary_{LIKELIHOOD_SAMPLES}_samples": training.compute(bound, binary, run.device)
            .double()
            .mean()
            .item(),
        }
        training.write_results(run, args.dataset, len(images), history, scores)
        if scores["kl"] < 1 or scores["active_units"] == 0:
            print(
                f"warning: the posterior has collapsed to the prior (KL {scores['kl']:.2f} nats, "
                f"{scores['active_units']} active units): the codes say nothing of the images; lower --beta or --lr",
                file=sys.stderr,
            )

        draw_digit_figures(
            test,
            latent,
            decode,
            model.decoder,
            history=history,
            curves={"recon": "reconstruction (nats an image)", "kl": "KL (nats an image)"},
            model=f"Variational autoencoder on {args.dataset}",
            scores=f"test -ELBO {scores['neg_elbo_grey']:.1f} nats (of it KL {scores['kl']:.1f}), "
            f"MSE {scores['mse']:.4f}, accuracy of 5 nearest neighbours {scores['knn']:.1%}",
            paths={
                "explorer": args.images_dir / f"{SCRIPT}_explorer.html",
                "map": args.images_dir / "3.png",
                **{
                    name: args.images_dir / f"{SCRIPT}_{name}.png"
                    for name in ("interpolation", "reconstructions", "manifold", "curves", "samples")
                },
            },
            prior=True,
        )


if __name__ == "__main__":
    cli.run(main)

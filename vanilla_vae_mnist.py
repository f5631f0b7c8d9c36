"""A variational autoencoder on MNIST with a two-dimensional latent space.

python vanilla_vae_mnist.py                   train, then write images/3.png and the other figures
python vanilla_vae_mnist.py --epochs 2 --limit 5000  a quick try
python vanilla_vae_mnist.py --latent-dim 20   a larger latent space, for better likelihoods
python vanilla_vae_mnist.py --beta 4          give the KL more weight (Higgins et al. 2017)
python vanilla_vae_mnist.py --resume          continue after an interruption, or draw the figures again
"""

import functools
import sys
from argparse import Namespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import cli, training
from common.data.digits import DATASETS, load_digits
from common.data.tensors import binarized, to_float
from common.figures import digit_page
from common.figures.digits import DigitFigures
from common.metrics import active_units, knn_accuracy

SCRIPT = "vanilla_vae_mnist"

EPOCHS = 38
BATCH_SIZE = 512  # at most: short runs take smaller batches
LEARNING_RATE = 4e-3  # the peak in a run of 4,000 steps; shorter runs take a higher rate, longer ones a lower rate
LATENT_DIM = 2  # so that it can be drawn
BETA = 1.0  # the evidence lower bound itself


class Residual(nn.Linear):
    """A residual layer (He et al. 2016), x + SiLU(W x + b), (B, width) -> (B, width).

    It adds to its input, so that the code reaches later layers more directly. A deep and narrow decoder without such
    layers learns late to use the code (compare Dieng et al. 2019, "Avoiding Latent Variable Collapse with Generative
    Skip Models"). They gain much in short runs, and nothing clear in long ones, where the autoencoder was tried, too.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + F.silu(super().forward(hidden))


class VariationalAutoencoder(nn.Module):
    """784 grey levels -> a Gaussian over `latent_dim` numbers -> 784 logits (Kingma & Welling 2014)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(),  # below, each line is a layer and its activation
            *(nn.Linear(784, 512), nn.SiLU()),
            *(nn.Linear(512, 128), nn.SiLU()),
            *(Residual(128, 128), Residual(128, 128)),
            nn.LayerNorm(128),  # without it, two dimensions lose 1 to 5 nats
            nn.Linear(128, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent_dim, 128), nn.SiLU()),
            *(Residual(128, 128), Residual(128, 128), Residual(128, 128)),
            *(nn.Linear(128, 512), nn.SiLU()),
            nn.Linear(512, 784),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Grey levels in [0, 1] (B, 1, 28, 28) -> mean and log-variance of q(z|x), (B, D) each."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """Latent vectors (B, D) -> logits (B, 1, 28, 28); their sigmoid is the picture."""
        return self.decoder(latent).float().view(-1, 1, 28, 28)


def reparameterize(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A differentiable sample of N(mean, exp(log_variance)), (B, D) (Kingma & Welling 2014, section 2.4)."""
    noise = torch.randn_like(mean)
    return mean + noise * torch.exp(0.5 * log_variance)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (B, D) -> (B,) (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def loss(model: VariationalAutoencoder, images: Tensor, beta: float = 1.0) -> dict[str, Tensor]:
    """The negative ELBO and its two terms in nats per image, (B,) each; "loss" weights the KL by `beta`."""
    mean, log_variance = model.encode(images)
    logits = model.decode(reparameterize(mean, log_variance))
    # -log p(x|z) of independent Bernoulli pixels; grey levels x are taken as probabilities. The same as
    # F.binary_cross_entropy_with_logits, but without its log1p, which is ten times as slow as log on CPUs with AVX-512:
    # for a logit a, it is log(1 + exp(a)) - x a, and log(1 + exp(a)) = relu(a) - log(sigmoid(|a|)).
    cross_entropy = logits.relu() - images * logits - logits.abs().sigmoid().log()
    recon = cross_entropy.flatten(1).sum(dim=1)
    kl = kl_divergence(mean, log_variance)
    return {"loss": recon + beta * kl, "neg_elbo": recon + kl, "recon": recon, "kl": kl}


@torch.no_grad()
def start_at_mean(model: VariationalAutoencoder, images: Tensor) -> None:
    """Start the decoder at the mean of `images` (N, 1, 28, 28) uint8: set its last bias to the log-odds of that mean.

    Training then need not learn that borders are black. In two dimensions, this gains half a nat (mean of four seeds);
    the autoencoder would gain nothing.
    """
    mean = images.sum(dim=0) / (255 * len(images))
    model.decoder[-1].bias.copy_(mean.flatten().logit(eps=1e-3))


def parse_args(argv: list[str] | None = None) -> Namespace:
    flags = cli.parser(SCRIPT, __doc__, epochs=EPOCHS, latent_dim=LATENT_DIM)
    flags.add_argument("--dataset", choices=DATASETS, default="MNIST", help="the data set, by its torchvision name")
    flags.add_argument("--beta", type=cli.non_negative_float, default=BETA, help="weight of the KL; 1 is the ELBO")
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with training.start(SCRIPT, args) as run:
        train, test = load_digits(args.dataset, args.data_dir)
        images = train.images[: args.limit].to(run.device)
        batch_size = args.batch_size or training.batch_size(len(images), args.epochs, most=BATCH_SIZE)
        lr = args.lr or training.learning_rate(len(images), args.epochs, batch_size, long=LEARNING_RATE)
        model = VariationalAutoencoder(args.latent_dim).to(run.device)
        start_at_mean(model, images)
        compute_loss = run.prepare(model, functools.partial(loss, beta=args.beta), trial=images[:batch_size])
        optimizer = training.Optimizer(model, lr, run.precision)  # Muon and AdamW, with one learning-rate cycle

        for epoch in run.epochs(model, optimizer, images, batch_size):
            for batch in epoch:  # (B, 1, 28, 28) in [0, 1]; each batch sets the learning rate
                terms = epoch.mean(compute_loss(batch))  # over the batch; the epoch keeps its own means
                optimizer.zero_grad()
                terms["loss"].backward()
                optimizer.step()

        encode = run.batched(lambda images: model.encode(images)[0])  # the mean of q(z|x), of many uint8 images
        decode = run.batched(lambda latent: model.decode(latent).sigmoid())
        latent = encode(test.images)
        terms = training.evaluate(model, loss, test.images, run.device)
        # The same images with every pixel drawn as 0 or 255, as in papers that report binarized MNIST.
        binary = binarized(test.images, training.EVALUATION_SEED)
        scores = {
            "neg_elbo_grey": terms["neg_elbo"],
            "neg_elbo_binary": training.evaluate(model, loss, binary, run.device)["neg_elbo"],
            "recon_grey": terms["recon"],
            "kl": terms["kl"],
            "active_units": active_units(latent),
            "mse": (decode(latent) - to_float(test.images)).square().mean().item(),
            "knn": knn_accuracy(encode(images), train.labels[: args.limit], latent, test.labels),
        }
        run.write_results(args.dataset, scores)
        if scores["kl"] < 1 or scores["active_units"] == 0:
            print(
                f"warning: the posterior has collapsed to the prior (KL {scores['kl']:.2f} nats, "
                f"{scores['active_units']} active units): its codes carry no information; lower --beta or --lr",
                file=sys.stderr,
            )

        title = f"Variational autoencoder on {args.dataset}" + (f", beta {args.beta:g}" if args.beta != 1 else "")
        subtitle = (
            f"test -ELBO {scores['neg_elbo_grey']:.1f} nats, of which KL {scores['kl']:.1f}; MSE {scores['mse']:.4f}; "
            f"5-NN accuracy {scores['knn']:.1%}"
        )
        figures = DigitFigures(title, subtitle, args.images_dir, SCRIPT, test, latent, decode, prior=True)
        figures.map(args.images_dir / "3.png")
        figures.interpolation()
        figures.reconstructions()
        figures.manifold()
        figures.samples(decode(torch.randn(100, args.latent_dim)))  # z ~ N(0, I), then the decoder
        figures.curves(run.history, {"recon": "reconstruction (nats per image)", "kl": "KL (nats per image)"})
        page = args.images_dir / f"{SCRIPT}_explorer.html"
        digit_page.write(page, test, latent, model.encoder, model.decoder, title, prior=True)
        print(f"Open {args.images_dir / '3.png'} first.")


if __name__ == "__main__":
    cli.run(main)

"""A variational autoencoder on MNIST with a two-dimensional latent space.

python vanilla_vae_mnist.py                   train, then write images/3.png and the other figures
python vanilla_vae_mnist.py --epochs 2 --limit 5000  a quick try
python vanilla_vae_mnist.py --latent-dim 20   a larger latent space, for better likelihoods
python vanilla_vae_mnist.py --beta 4          give the KL more weight (Higgins et al. 2017)
python vanilla_vae_mnist.py --resume          continue after an interruption, or draw the figures again
"""

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import cli, training
from common.data.batches import binarized, to_float
from common.data.digits import Digits, load_digits
from common.explorer import digit_page
from common.figures.animation import Animation
from common.figures.digit_figures import DigitFigures
from common.metrics import active_units, knn_accuracy

SCRIPT = "vanilla_vae_mnist"
MAP = "3.png"

DEFAULTS = {"epochs": 45, "latent_dim": 2}  # two dimensions can be drawn
BATCH_SIZE = 512  # at most: short runs take smaller batches
LEARNING_RATE = 4e-3  # the peak in a run of 4,000 steps; shorter runs take a higher rate, longer ones a lower rate
MUON_DECAY = 0.15  # Muon's weight decay, relative to the learning rate


class Residual(nn.Linear):
    """A residual layer (He et al. 2016), x + SiLU(W x + b), (B, width) -> (B, width).

    A layer that adds to its input lets information and gradients pass through many layers.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + F.silu(super().forward(hidden))


class VariationalAutoencoder(nn.Module):
    """784 grey levels -> a Gaussian over `latent_dim` numbers -> 784 logits (Kingma & Welling 2014)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 512), nn.SiLU(), nn.Linear(512, 128), nn.SiLU(),
            Residual(128, 128), Residual(128, 128), nn.LayerNorm(128), nn.Linear(128, 2 * latent_dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 128), nn.SiLU(), Residual(128, 128), Residual(128, 128), Residual(128, 128),
            nn.Linear(128, 512), nn.SiLU(), nn.Linear(512, 784),
        )  # fmt: skip

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Grey levels in [0, 1] (B, 1, 28, 28) -> mean and log-variance of q(z|x), (B, D) each."""
        return self.encoder(images).float().chunk(2, dim=1)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent vectors (B, D) -> logits (B, 1, 28, 28); their sigmoid is the picture."""
        return self.decoder(latent).float().view(-1, 1, 28, 28)


def reparameterize(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A differentiable sample of N(mean, exp(log_variance)), (B, D) (Kingma & Welling 2014, section 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (B, D) -> (B,) (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def loss(model: VariationalAutoencoder, images: Tensor, beta: float = 1.0) -> dict[str, Tensor]:
    """The negative ELBO and its two terms in nats per image, (B,) each; "loss" weights the KL by `beta`."""
    mean, log_variance = model.encode(images)
    latent = reparameterize(mean, log_variance)
    logits = model.decode(latent)
    # -log p(x|z) of independent Bernoulli pixels; grey levels x are taken as probabilities.
    recon = F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1)
    kl = kl_divergence(mean, log_variance)
    return {"loss": recon + beta * kl, "neg_elbo": recon + kl, "recon": recon, "kl": kl}


def fit(run: training.Run, args: Namespace, digits: Digits, movie: Animation | None = None) -> VariationalAutoencoder:
    """A model trained on the digits, as `args` say."""
    images = digits.images.to(run.device)
    batch_size = args.batch_size or training.batch_size(len(images), args.epochs, most=BATCH_SIZE)
    lr = args.lr or training.learning_rate(len(images), args.epochs, batch_size, long=LEARNING_RATE)
    model = VariationalAutoencoder(args.latent_dim).to(run.device)
    with torch.no_grad():  # start at the mean image, so that training need not learn that borders are black
        model.decoder[-1].bias.copy_(images.float().mean(dim=0).div(255).flatten().logit(eps=1e-3))
    # Muon trains the weights of the layers inside the encoder and inside the decoder, but not the first and the last
    # layer of each; AdamW trains all others.
    layers = [[layer for layer in part if isinstance(layer, nn.Linear)] for part in (model.encoder, model.decoder)]
    muon = [layer.weight for part in layers for layer in part[1:-1]]
    optimizer = training.Optimizer(model, muon, lr=lr, muon_decay=MUON_DECAY)

    for epoch in run.epochs(model, optimizer, data=digits.description):
        for batch in epoch.batches(images, batch_size):  # (B, 1, 28, 28) in [0, 1], shuffled
            for group in optimizer.param_groups:
                group["lr"] = lr * training.one_cycle(epoch.progress)  # up, then down to 0
            with run.autocast():
                terms = loss(model, batch, args.beta)  # (B,) each
            optimizer.zero_grad()
            terms["loss"].mean().backward()
            optimizer.step()
            epoch.record(terms)  # for epoch.means, the progress bar, and a guard against NaN
            if movie:  # with --animate
                movie.watch(epoch, model)
    return model


def report(run: training.Run, args: Namespace, model: nn.Module, train: Digits, test: Digits) -> None:
    """Score the model on the test images, and draw its figures."""
    encode = training.batched(model.encode, run.device)  # takes any number of uint8 images
    decode = training.batched(lambda latent: model.decode(latent).sigmoid(), run.device)
    latent, log_variance = encode(test.images)
    terms = training.evaluate(model, loss, test.images)
    # The same images with every pixel drawn black or white, as in papers that report binarized MNIST.
    binary = training.evaluate(model, loss, binarized(test.images, training.EVALUATION_SEED))
    scores = {
        "neg_elbo_grey": terms["neg_elbo"],
        "neg_elbo_binary": binary["neg_elbo"],
        "recon_grey": terms["recon"],
        "kl": terms["kl"],
        "active_units": active_units(latent),
        "mse": (decode(latent) - to_float(test.images)).square().mean().item(),
        "knn": knn_accuracy(encode(train.images)[0], train.labels, latent, test.labels),
    }
    figures = DigitFigures(
        title=f"Variational autoencoder on {test.name}" + (f", beta {args.beta:g}" if args.beta != 1 else ""),
        folder=args.images_dir,
        script=SCRIPT,
        digits=test,
        latent=latent,
        decode=decode,
        prior=True,
        deviation=torch.exp(0.5 * log_variance),
    )
    run.write_results(test.name, scores, latent, test.labels)

    figures.map(path=args.images_dir / MAP)
    figures.interpolation()
    figures.reconstructions()
    figures.manifold()
    figures.samples()
    figures.curves(history=run.history, names={"recon": "reconstruction (nats per image)", "kl": "KL (nats per image)"})
    page, own = args.images_dir / f"{SCRIPT}_explorer.html", {Residual: "Residual"}
    digit_page.write(page, figures, model, own_layers=own, other="vanilla_ae_explorer.html")
    print(f"Open {args.images_dir / MAP} first.")


def load(path: Path | str) -> VariationalAutoencoder:
    """The trained model of a checkpoint, ready to encode and decode. Raises UserError for any other file."""
    return training.load_model(path, lambda args: VariationalAutoencoder(args["latent_dim"]))


def parse_args(argv: list[str] | tuple[()]) -> Namespace:
    flags = cli.parser(SCRIPT, __doc__, DEFAULTS)
    flags.add_argument("--dataset", default="MNIST", help="MNIST, FashionMNIST, KMNIST, or a folder or zip of pictures")
    flags.add_argument("--beta", type=cli.weight, default=1.0, help="weight of the KL; 1 gives the ELBO")
    flags.add_argument("--animate", action="store_true", help=f"also write IMAGES_DIR/{SCRIPT}_training.gif")
    return flags.parse_args(argv)


def main(argv: list[str] | tuple[()] = ()) -> None:
    args = parse_args(argv)
    with training.start(SCRIPT, args) as run:
        train, test = load_digits(args.dataset, args.data_dir)
        train = train.first(args.limit)
        movie = Animation(test) if args.animate else None
        model = fit(run, args, train, movie)
        if run.is_first_process:
            if movie and movie.frames:  # none if a finished run was resumed
                movie.write(args.images_dir / f"{SCRIPT}_training.gif")
            report(run, args, model, train, test)


if __name__ == "__main__":
    cli.run(main)

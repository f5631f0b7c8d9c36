"""A convolutional variational autoencoder on faces: CelebA, your own pictures, or drawn ones.

python vanilla_vae_celeba.py                             train, then write images/4.png and the other figures
python vanilla_vae_celeba.py --faces img_align_celeba.zip    read CelebA from this zip or folder
python vanilla_vae_celeba.py --faces drawn --epochs 3    a quick try that downloads nothing
python vanilla_vae_celeba.py --ae                        the same network as a plain autoencoder
python vanilla_vae_celeba.py --resume                    continue after an interruption, or draw the figures again
"""

from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from common import cli, training
from common.data.batches import random_flip
from common.data.celeba import Faces, load_faces
from common.explorer import face_page
from common.figures.face_figures import FaceFigures
from common.metrics import active_units, bits_per_dim

SCRIPT = "vanilla_vae_celeba"
DEFAULTS = {"epochs": 20, "batch_size": 64, "lr": 2e-3, "latent_dim": 128}
BETA = 8.0  # favours good samples over sharp reconstructions; compare.py ablations tries 1, 16 and 24
MUON_DECAY = 0.3  # Muon's weight decay, relative to the learning rate
CHANNELS = {32: (64, 96), 64: (64, 96, 192), 128: (64, 96, 192, 192)}  # size: channels at size/4, size/8, ..., 4 pixels


class Norm(nn.GroupNorm):
    """GroupNorm: unlike with BatchNorm, an image's code doesn't depend on its batch even in training."""

    def forward(self, maps: Tensor) -> Tensor:  # in bf16, PyTorch takes six times as long on a CPU
        return super().forward(maps.float())


class VariationalAutoencoder(nn.Module):
    """(3, size, size) pictures -> a Gaussian over `latent_dim` numbers -> the mean of each pixel.

    Large feature maps are expensive: the encoder begins with a stride of 4, and the decoder's convolutions turn
    channels into blocks of pixels (Shi et al. 2016, arXiv:1609.05158).
    """

    def __init__(self, latent_dim: int, size: int):
        super().__init__()
        channels, deepest = CHANNELS[size], CHANNELS[size][-1]  # the deepest maps have 4x4 pixels
        layers = [nn.Conv2d(3, channels[0], 8, stride=4, padding=2), Norm(8, channels[0]), nn.SiLU()]
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), Norm(8, outputs), nn.SiLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(deepest * 4 * 4, 2 * latent_dim))
        layers = [nn.Linear(latent_dim, deepest * 4 * 4), nn.Unflatten(1, (deepest, 4, 4)), Norm(8, deepest), nn.SiLU()]
        for inputs, outputs in pairwise(reversed(channels)):
            layers += [nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2), Norm(8, outputs), nn.SiLU()]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels[0], 3 * 4 * 4, 3, padding=1), nn.PixelShuffle(4))
        nn.init.constant_(self.decoder[-2].bias, 0.5)  # begin with grey pictures, not black ones
        self.register_buffer("variance", torch.ones(()))  # of p(x|z) outside training: see `loss` and `fit`

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) in [0, 1] -> mean and log-variance of q(z|x), (B, D) each."""
        return self.encoder(images).float().chunk(2, dim=1)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent vectors (B, D) -> the mean of each pixel (B, 3, S, S), not clamped to [0, 1]."""
        return self.decoder(latent).float()


def reparameterize(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A differentiable sample of N(mean, exp(log_variance)), (B, D) (Kingma & Welling 2014, section 2.4)."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (B, D) -> (B,) (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def loss(model: VariationalAutoencoder, images: Tensor, beta: float = 1.0, ae: bool = False) -> dict[str, Tensor]:
    """The negative ELBO and its terms in nats per image, and the mean squared error of the pixels; (B,) each.

    p(x|z) is a Gaussian with a single variance for all pixels. In training it is the batch's mean squared error, its
    maximum-likelihood value (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated Decoders"), so
    that a `beta` of 1 gives the ELBO at every image size. With `ae`, the code is the mean, and there is no KL.
    """
    mean, log_variance = model.encode(images)
    reconstruction = model.decode(mean if ae else reparameterize(mean, log_variance))
    squared_error = (reconstruction - images).square().flatten(1).sum(dim=1)
    pixels = images.shape[1:].numel()
    # At its optimum, the loss has no slope in the variance, so no gradient needs to pass through it.
    variance = squared_error.detach().mean() / pixels if model.training else model.variance
    recon = 0.5 * (pixels * torch.log(2 * torch.pi * variance) + squared_error / variance)  # -log p(x|z)
    kl = torch.zeros_like(recon) if ae else kl_divergence(mean, log_variance)
    return {"loss": recon + beta * kl, "neg_elbo": recon + kl, "recon": recon, "kl": kl, "mse": squared_error / pixels}


@torch.no_grad()
def standardize(model: VariationalAutoencoder, mean: Tensor, log_variance: Tensor) -> None:
    """Shift and scale each latent dimension so that q(z|x), averaged over images, has mean 0 and variance 1 like p(z).

    The decoder undoes it. No other shift and scale gives a lower mean KL. mean, log_variance: of N images, (N, D) each.
    """
    mean, variance = mean.to(model.variance.device), log_variance.to(model.variance.device).exp()
    shift, scale = mean.mean(dim=0), (mean.var(dim=0, correction=0) + variance.mean(dim=0)).sqrt()
    last, first = model.encoder[-1], model.decoder[0]  # the layers before and after the code
    mean_bias, log_variance_bias = last.bias.chunk(2)  # views: a change of them changes the layer
    last.weight.chunk(2)[0].div_(scale[:, None])
    mean_bias.sub_(shift).div_(scale)
    log_variance_bias.sub_(2 * scale.log())
    first.bias.add_(first.weight @ shift)
    first.weight.mul_(scale)


def fit(run: training.Run, args: Namespace, train: Faces, valid: Faces) -> VariationalAutoencoder:
    """A model trained on the faces, as `args` say."""
    images = training.on_device(train.images, run.device)
    model = VariationalAutoencoder(args.latent_dim, args.size)
    model.to(run.device, memory_format=training.memory_format(run.device))
    # Muon trains the weights of all layers but those that meet the pixels; AdamW trains all others.
    muon = [layer.weight for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][1:-1]
    optimizer = training.Optimizer(model, muon, lr=args.lr, muon_decay=MUON_DECAY)

    for epoch in run.epochs(model, optimizer, data=train.description):
        for batch in epoch.batches(images, args.batch_size):  # (B, 3, S, S) in [0, 1], shuffled
            for group in optimizer.param_groups:
                group["lr"] = args.lr * training.one_cycle(epoch.progress)  # up, then down to 0
            with run.autocast():
                terms = loss(model, random_flip(batch), args.beta, args.ae)  # (B,) each
            optimizer.zero_grad()
            terms["loss"].mean().backward()
            optimizer.step()
            epoch.record(terms)  # for epoch.means, the progress bar, and a guard against NaN
        model.variance.fill_(epoch.means["mse"])  # of the epoch: see `loss`
        if epoch.last and not args.ae:  # before the last checkpoint is written
            standardize(model, *training.batched(model.encode, run.device)(images))
        epoch.validate(loss, valid.images, ae=args.ae)
    return model


def report(run: training.Run, args: Namespace, model: VariationalAutoencoder, train: Faces, test: Faces) -> None:
    """Score the model on the test faces, and draw its figures."""
    encode = training.batched(model.encode, run.device)  # takes any number of uint8 images
    latent, train_latent = encode(test.images)[0], encode(train.images)[0]
    mse = training.evaluate(model, loss, test.images, ae=True)["mse"]  # of z = mean
    scores = {"mse": mse, "active_units": active_units(latent), "sigma": model.variance.sqrt().item()}
    if not args.ae:
        terms = training.evaluate(model, loss, test.images)
        bits = bits_per_dim(terms["neg_elbo"], test.images[0].numel())
        scores |= {"neg_elbo": terms["neg_elbo"], "bits_per_dim": bits, "kl": terms["kl"]}
    run.write_results(test.name, scores, latent)
    beta = "" if args.ae or args.beta == BETA else f", beta {args.beta:g}"
    title = f"{'Autoencoder' if args.ae else 'VAE'} on {test.name}{' (not CelebA)' if test.drawn else ''}{beta}"
    codes = {"latent": latent, "train_latent": train_latent, "decode": training.batched(model.decode, run.device)}
    figures = FaceFigures(title=title, folder=args.images_dir, script=SCRIPT, originals=test.images, **codes)
    figures.interpolation(path=args.images_dir / "4.png")
    figures.reconstructions()
    figures.samples()
    figures.attributes(labels=train.attributes, names=train.attribute_names)
    curves = {"mse": "mean squared error"} | ({} if args.ae else {"kl": "KL (nats per image)"})
    figures.curves(history=run.history, names=curves)
    face_page.write(args.images_dir / f"{SCRIPT}_explorer.html", figures, train, model, own_layers={Norm: "GroupNorm"})
    print(f"Open {args.images_dir / '4.png'} first.")


def load(path: Path | str) -> VariationalAutoencoder:
    """The trained model of a checkpoint, ready to encode and decode. Raises UserError for any other file."""
    return training.load_model(path, lambda args: VariationalAutoencoder(args["latent_dim"], args["size"]))


def parse_args(argv: list[str] | tuple[()]) -> Namespace:
    flags = cli.parser(SCRIPT, __doc__, DEFAULTS)
    flags.add_argument("--beta", type=cli.weight, default=BETA, help="weight of the KL; 1 gives the ELBO")
    flags.add_argument("--ae", action="store_true", help="a plain autoencoder: no sampling, no KL")
    flags.add_argument("--size", type=int, choices=CHANNELS, default=64, help="width and height of the pictures")
    flags.add_argument("--faces", metavar="PATH", help="a zip or folder of pictures, or drawn; without it, CelebA")
    return flags.parse_args(argv)


def main(argv: list[str] | tuple[()] = ()) -> None:
    args = parse_args(argv)
    with training.start(SCRIPT, args) as run:
        train, valid, test = load_faces(args.faces, args.data_dir, args.size)
        train, valid = train.first(args.limit), valid.first(args.limit)
        model = fit(run, args, train, valid)
        if run.is_first_process:
            report(run, args, model, train, test)


if __name__ == "__main__":
    cli.run(main)

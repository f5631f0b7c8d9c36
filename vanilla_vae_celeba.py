"""A convolutional variational autoencoder on faces: CelebA, your own pictures, or drawn ones.

python vanilla_vae_celeba.py                             train, then write images/4.png and the other figures
python vanilla_vae_celeba.py --faces img_align_celeba.zip    read CelebA from this zip or folder
python vanilla_vae_celeba.py --faces drawn --epochs 3    a quick try that downloads nothing
python vanilla_vae_celeba.py --beta 1                    the ELBO itself: barely sharper pictures, worse samples
python vanilla_vae_celeba.py --ae                        the same network as a plain autoencoder
python vanilla_vae_celeba.py --resume                    continue after an interruption, or draw the figures again
"""

import functools
import itertools
import math
from argparse import Namespace

import torch
from torch import Tensor, nn

from common import cli, training
from common.data.faces import TEST, TRAIN, VALID, load_faces
from common.data.tensors import random_flip, select
from common.figures import face_page
from common.figures.faces import FaceFigures
from common.metrics import active_units

SCRIPT = "vanilla_vae_celeba"

EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
LATENT_DIM = 128
BETA = 8.0  # the best samples, and reconstructions nearly as sharp as with 1: see tests/measure/README.md
CHANNELS = {32: (64, 96), 64: (64, 96, 192), 128: (64, 96, 192, 192)}  # size: channels at size/4, size/8, ..., 4 pixels


class Norm(nn.GroupNorm):
    """GroupNorm: it speeds up training as BatchNorm does, but an image's code doesn't depend on its batch."""

    def __init__(self, channels: int):
        super().__init__(num_groups=8, num_channels=channels)

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.float())  # in bf16, PyTorch takes six times as long on a CPU


class VariationalAutoencoder(nn.Module):
    """(3, size, size) pictures -> a Gaussian over `latent_dim` numbers -> the mean of each pixel.

    Large feature maps are expensive, so the network avoids them: the encoder begins with a stride of 4, and every
    convolution of the decoder turns channels into blocks of 2x2 pixels, the last one of 4x4 (Shi et al. 2016,
    "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network").
    """

    def __init__(self, latent_dim: int, size: int):
        super().__init__()
        channels = CHANNELS[size]
        deepest = channels[-1]  # at 4x4 pixels

        layers = [nn.Conv2d(3, channels[0], 8, stride=4, padding=2), Norm(channels[0]), nn.SiLU()]
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), Norm(outputs), nn.SiLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(deepest * 4 * 4, 2 * latent_dim))

        layers = [nn.Linear(latent_dim, deepest * 4 * 4), nn.Unflatten(1, (deepest, 4, 4)), Norm(deepest), nn.SiLU()]
        for inputs, outputs in itertools.pairwise(reversed(channels)):
            layers += [nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2), Norm(outputs), nn.SiLU()]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels[0], 3 * 4 * 4, 3, padding=1), nn.PixelShuffle(4))
        nn.init.constant_(self.decoder[-2].bias, 0.5)  # begin with grey pictures, not black ones
        self.register_buffer("variance", torch.ones(()))  # of p(x|z) outside training, see `calibrate`

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) in [0, 1] -> mean and log-variance of q(z|x), (B, D) each."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """Latent vectors (B, D) -> the mean of each pixel (B, 3, S, S), not clamped to [0, 1]."""
        return self.decoder(latent).float()


def reparameterize(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A differentiable sample of N(mean, exp(log_variance)), (B, D) (Kingma & Welling 2014, section 2.4)."""
    noise = torch.randn_like(mean)
    return mean + noise * torch.exp(0.5 * log_variance)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (B, D) -> (B,) (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def loss(model: VariationalAutoencoder, images: Tensor, beta: float = 1.0, ae: bool = False) -> dict[str, Tensor]:
    """The negative ELBO and its terms in nats per image, and the mean squared error of the pixels; (B,) each.

    p(x|z) is a Gaussian with a single variance for all pixels. In training it is the batch's mean squared error, its
    maximum-likelihood value (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated Decoders"), so
    that the weight of the KL, `beta`, means the same at every image size. `ae` makes it an autoencoder: the code is
    the mean, there is no KL, and "neg_elbo" is not a bound.
    """
    mean, log_variance = model.encode(images)
    reconstruction = model.decode(mean if ae else reparameterize(mean, log_variance))
    squared_error = (reconstruction - images).square().flatten(1).sum(dim=1)
    pixels = images.shape[1:].numel()
    # batch_mean also averages over processes. Detached: at its optimum, the loss has no slope in the variance.
    variance = training.batch_mean(squared_error.detach()) / pixels if model.training else model.variance
    recon = 0.5 * (pixels * torch.log(2 * math.pi * variance) + squared_error / variance)  # -log p(x|z)
    kl = torch.zeros_like(recon) if ae else kl_divergence(mean, log_variance)
    return {"loss": recon + beta * kl, "neg_elbo": recon + kl, "recon": recon, "kl": kl, "mse": squared_error / pixels}


def calibrate(model: VariationalAutoencoder, mse: float) -> None:
    """Set the variance of p(x|z) to `mse`, an epoch's mean squared error, which maximizes the likelihood."""
    model.variance.fill_(mse)


@torch.no_grad()
def standardize(model: VariationalAutoencoder, mean: Tensor, log_variance: Tensor) -> None:
    """Shift and scale each latent dimension so that q(z|x), averaged over images, has mean 0 and variance 1 like p(z).

    The decoder undoes it. No other shift and scale gives a lower mean KL. mean, log_variance: of N images, (N, D) each.
    """
    shift, scale = mean.mean(dim=0), (mean.var(dim=0, correction=0) + log_variance.exp().mean(dim=0)).sqrt()
    last, first = model.encoder[-1], model.decoder[0]  # the layers before and after the code
    mean_bias, log_variance_bias = last.bias.chunk(2)  # views: a change of them changes the layer
    last.weight.chunk(2)[0].div_(scale[:, None])
    mean_bias.sub_(shift).div_(scale)
    log_variance_bias.sub_(2 * scale.log())
    first.bias.add_(first.weight @ shift)
    first.weight.mul_(scale)


def parse_args(argv: list[str] | None = None) -> Namespace:
    flags = cli.parser(SCRIPT, __doc__, epochs=EPOCHS, latent_dim=LATENT_DIM, batch_size=BATCH_SIZE, lr=LEARNING_RATE)
    flags.add_argument("--beta", type=cli.non_negative_float, default=BETA, help="weight of the KL; 1 is the ELBO")
    flags.add_argument("--ae", action="store_true", help="a plain autoencoder: no sampling, no KL")
    flags.add_argument("--size", type=int, choices=CHANNELS, default=64, help="width and height of the pictures")
    flags.add_argument("--faces", metavar="PATH", help="a zip or folder of pictures, or the word drawn (default: "
                       "DATA_DIR/celeba, then torchvision's download, then drawn faces)")  # fmt: skip
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with training.start(SCRIPT, args) as run:
        faces = load_faces(args.faces, args.data_dir, args.size)
        run.data = faces.description
        train, valid, test = (
            training.on_device(select(faces.images, faces.split == part), run.device) for part in (TRAIN, VALID, TEST)
        )
        train = train[: args.limit]
        model = VariationalAutoencoder(args.latent_dim, args.size)
        model.to(run.device, memory_format=training.memory_format(run.device))
        objective = functools.partial(loss, beta=args.beta, ae=args.ae)
        compute_loss = run.prepare(model, objective, trial=train[: args.batch_size])
        optimizer = training.Optimizer(model, args.lr, run.precision)  # Muon and AdamW, with one learning-rate cycle
        posterior = run.batched(lambda images: torch.stack(model.encode(images), dim=1))  # on the CPU: (N, 2, D)

        for epoch in run.epochs(model, optimizer, train, args.batch_size, augment=random_flip):
            for batch in epoch:  # (B, 3, S, S) in [0, 1]; each batch sets the learning rate
                terms = epoch.mean(compute_loss(batch))  # over the batch; the epoch keeps its own means
                optimizer.zero_grad()
                terms["loss"].backward()
                optimizer.step()
            calibrate(model, epoch.means["mse"])
            if epoch.last and not args.ae:  # before its checkpoint is written
                standardize(model, *posterior(train).to(run.device).unbind(dim=1))
            epoch.validate(objective, valid, names=("neg_elbo", "recon", "kl", "mse"))

        decode = run.batched(model.decode)
        train_latent, latent = posterior(train)[:, 0], posterior(test)[:, 0]
        terms = training.evaluate(model, objective, test, run.device)
        mse = training.evaluate(model, functools.partial(loss, ae=True), test, run.device)["mse"]  # of z = mean
        scores = {"mse": mse, "active_units": active_units(latent), "sigma": model.variance.sqrt().item()}
        subtitle = f"test MSE {mse:.4f}"
        if not args.ae:
            # The probability of a grey level is about its density times 1/255, the spacing of the levels.
            bits_per_dim = terms["neg_elbo"] / (3 * args.size**2 * math.log(2)) + math.log2(255)
            scores |= {"neg_elbo": terms["neg_elbo"], "bits_per_dim": bits_per_dim, "kl": terms["kl"]}
            subtitle += f", KL {terms['kl']:.0f} nats, {bits_per_dim:.2f} bits/dim"
        run.write_results(faces.source, scores)

        title = f"{'Autoencoder' if args.ae else f'VAE (beta {args.beta:g})'} on {faces.source}"
        title += " (not CelebA)" if faces.drawn else ""
        labels = None if faces.attributes is None else faces.attributes[faces.split == TRAIN][: args.limit]
        figures = FaceFigures(title, subtitle, args.images_dir, SCRIPT, test.cpu(), latent, train_latent, decode)
        figures.interpolation(args.images_dir / "4.png")
        figures.reconstructions()
        figures.samples()  # decoded from z ~ N(0, I), and from a Gaussian fitted to the training codes
        figures.attributes(labels, faces.attribute_names)
        nats = {"neg_elbo": "-ELBO (nats per image)", "recon": "reconstruction (nats)", "kl": "KL (nats)"}
        figures.curves(run.history, ({} if args.ae else nats) | {"mse": "mean squared error"})
        page = args.images_dir / f"{SCRIPT}_explorer.html"
        face_page.write(page, figures, model.encoder, model.decoder, labels, faces)
        print(f"Open {args.images_dir / '4.png'} first.")


if __name__ == "__main__":
    cli.run(main)

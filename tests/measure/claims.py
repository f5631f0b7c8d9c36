"""What autoencoders and VAEs are good for: five claims, measured on models that differ in one thing.

python tests/measure/claims.py digits                  the tables and figures of MNIST
python tests/measure/claims.py faces --faces PATH      those of faces

The models are made by the scripts' own `fit`, each with several seeds, and kept in RESULTS/models. PCA is beside both.
"""

import copy
from argparse import Namespace
from collections.abc import Callable, Sequence

import laboratory as lab
import numpy as np
import torch
from matplotlib.patches import Circle
from scipy.ndimage import median_filter
from scores import frechet_distance, linear_accuracy, log_likelihood, neighbour_radii, precision_recall
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch import Tensor, nn

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist
from common import cli, files, training
from common.data.batches import add_noise, binarized, to_float
from common.data.celeba import load_faces
from common.data.digits import Digits, load_digits
from common.figures import maps, sheets
from common.latent import fit_gaussian
from common.metrics import active_units, knn_accuracy, psnr

EPOCHS = {"digits": 8, "faces": 6}  # so that each takes less than an hour on two cores
SIZES, SHOWN = (2, 4, 8, 16, 32), (2, 8, 32)  # of the codes, in the figure and in the tables
LIKELIHOOD_SIZES = (2, 20)
IMAGES, SAMPLES = 500, 5000  # for log p(x)
BETAS = (0, 0.1, 1, 4, 20)
LABELS = (100, 1000, 60_000)
NOISE = 0.5
ROW = 10  # pictures in a row of a figure
WAYS = ("reconstructions", "midpoints", "midpoints on the sphere", "N(0, I)", "N(0, I), scaled", "fitted Gaussian")


class Model:
    """A model of images (N, C, S, S), applied to any number of them.

    encode: images, uint8 or in [0, 1] -> the mean and the standard deviation of the codes (N, D).
    decode: codes -> images in [0, 1]. prior: whether the codes have deviations and the prior N(0, I), as a VAE's.
    """

    def __init__(self, encode: Callable, decode: Callable, where: torch.device, prior: bool = False):
        def codes(images: Tensor) -> tuple[Tensor, Tensor]:
            found = encode(images)
            mean = found[0] if isinstance(found, tuple) else found
            return mean, torch.exp(0.5 * found[1]) if prior else torch.zeros_like(mean)

        self.encode, self.prior = training.batched(codes, where), prior
        self.decode = training.batched(lambda latent: decode(latent).clamp(0, 1), where)

    def mse(self, images: Tensor) -> float:
        return (self.decode(self.encode(images)[0]) - to_float(images)).square().mean().item()


def model_of(network: nn.Module, prior: bool) -> Model:
    """A network with the scripts' interface, of digits if its images have a single channel."""

    def decode(latent: Tensor) -> Tensor:
        images = network.decode(latent)
        return images.sigmoid() if images.shape[1] == 1 else images

    return Model(network.encode, decode, next(network.parameters()).device, prior)


def principal_components(images: Tensor, most: int, where: torch.device) -> Callable[[int], Model]:
    """PCA of images (N, C, S, S) uint8, with any number of components up to `most`."""
    pca = PCA(min(most, len(images)), random_state=0).fit(to_float(images).flatten(1).numpy())
    mean, basis = torch.from_numpy(pca.mean_).to(where), torch.from_numpy(pca.components_).to(where)
    return lambda dimensions: Model(
        lambda images: (images.flatten(1) - mean) @ basis[:dimensions].T,
        lambda latent: (mean + latent @ basis[:dimensions]).unflatten(1, images.shape[1:]),
        where,
    )


def codes_to_decode(model: Model, train: Tensor, test: Tensor, seed: int) -> dict[str, Tensor]:
    """Latent points (N, D) for each of the WAYS to make an image, as many as `test` has images.

    The fitted Gaussian has the mean and covariance of samples of q(z|x) over the training images; "scaled" takes their
    mean and variances alone. Midpoints are those of the codes of two random test images. With many dimensions, they are
    shorter than codes; those on the sphere have the mean of both lengths (nearly White 2016, "Sampling Generative
    Networks"), and are left out where no prior puts the codes on a sphere.
    """
    generator = torch.Generator().manual_seed(seed)
    codes, (means, deviations) = model.encode(test)[0], model.encode(train)
    posterior = means + deviations * torch.randn(means.shape, generator=generator)
    mean, factor = fit_gaussian(posterior)
    noise = torch.randn(codes.shape, generator=generator)
    partners = codes[torch.randperm(len(codes), generator=generator)]
    middle, lengths = (codes + partners) / 2, (codes.norm(dim=1) + partners.norm(dim=1)) / 2
    on_sphere = middle * (lengths / middle.norm(dim=1).clamp(min=1e-6))[:, None]
    points = (codes, middle, on_sphere, noise, mean + noise * posterior.std(dim=0), mean + noise @ factor.T)
    return {way: part for way, part in zip(WAYS, points, strict=True) if model.prior or part is not on_sphere}


class Judge:
    """Compares images with the test images, by features."""

    def __init__(self, features: Callable[[Tensor], Tensor], test: Tensor):
        self.features, self.real = features, features(test)
        self.radii = neighbour_radii(self.real)

    def __call__(self, images: Tensor, name: str) -> dict[str, float]:
        found = self.features(images)
        precision, recall = precision_recall(self.real, found, self.radii)
        scores = {f"{name}: frechet": frechet_distance(self.real, found)}
        return scores | {f"{name}: precision": precision, f"{name}: recall": recall}

    def all_ways(self, model: Model, train: Tensor, test: Tensor, seed: int) -> dict[str, float]:
        ways = codes_to_decode(model, train, test, seed).items()
        return {name: value for way, points in ways for name, value in self(model.decode(points), way).items()}

    def training_images(self, train: Tensor, seed: int) -> dict[str, float]:
        """As many of them as there are test images, for scale."""
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        return self(train[order[: len(self.real)]], WAYS[0])


def realism(results: lab.Results, reference: str, models: Sequence[str]) -> None:
    """Tables of Fréchet distances, precision and recall of all ways to make an image."""
    for score, title, form in (
        ("frechet", "Fréchet distance to the test images (lower is better)", ".1f"),
        ("precision", "Precision: the share of images that lie among the test images", ".3f"),
        ("recall", "Recall: the share of test images that lie among these images", ".3f"),
    ):
        columns = {f"{way}: {score}": (way, form) for way in WAYS}
        results.table(f"{title}, by the features of {reference}", [*models, "training images"], columns)


def claims_of_digits(args: Namespace) -> None:
    train, test = (part.first(args.limit) for part in load_digits("MNIST", args.data_dir))
    results = lab.Results(f"{args.epochs} epochs, {args.seeds} seeds, {args.precision}; {lab.machine(args)}")
    features, reference = lab.features(train, test, args)
    judge, components = Judge(features, test.images), principal_components(train.images, max(SIZES), args.where)
    for seed in range(args.seeds):
        pixels = to_float(train.images).flatten(1), to_float(test.images).flatten(1)
        results.add("pixels, 784", accuracies(*pixels, train, test, seed))
        results.add("training images", judge.training_images(train.images, seed))
        for dimensions in SIZES:
            for kind, script in {"PCA": None, "AE": vanilla_ae, "VAE": vanilla_vae_mnist}.items():
                model = components(dimensions)
                if script:
                    network = lab.trained(script, [train], args, seed=seed, latent_dim=dimensions)
                    model = model_of(network, kind == "VAE")
                scores = {"mse": model.mse(test.images)}
                if dimensions in SHOWN:
                    codes = model.encode(train.images)[0], model.encode(test.images)[0]
                    scores |= accuracies(*codes, train, test, seed)
                    scores |= judge.all_ways(model, train.images, test.images, seed)
                results.add(f"{kind}, {dimensions}", scores)

    shown = [f"{kind}, {dimensions}" for dimensions in SHOWN for kind in ("PCA", "AE", "VAE")]
    columns = {"mse": ("MSE", ".4f"), "knn": ("5 nearest neighbours", ".1%")}
    columns |= {f"linear, {count}": (f"linear, {count:,} labels", ".1%") for count in LABELS}
    title = "Dimensionality reduction and feature extraction: test MSE, and test accuracy of classifiers of the codes"
    results.table(title, [*shown, "pixels, 784"], columns)
    likelihoods(train, test, results, args)
    denoising(train, test, results, args)
    realism(results, reference, shown)
    files.write_json(args.results / "claims_digits.json", vars(results))
    figures = sheets.Figures(train.name, args.images_dir, "claims")
    draw_sizes(results, figures)
    draw_betas(train, test, figures, args)


def accuracies(codes: Tensor, test_codes: Tensor, train: Digits, test: Digits, seed: int) -> dict[str, float]:
    """Test accuracies of 5 nearest neighbours, and of linear classifiers with some of the labels."""
    scores = {"knn": knn_accuracy(codes, train.labels, test_codes, test.labels)}
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))
    for count in LABELS:
        few = order[:count]
        scores[f"linear, {count}"] = linear_accuracy(codes[few], train.labels[few], test_codes, test.labels)
    return scores


def likelihoods(train: Digits, test: Digits, results: lab.Results, args: Namespace) -> None:
    """-ELBO and -log p(x) of black-and-white test digits, in nats per image; draws the KL of each dimension."""
    count, samples = (50, 100) if args.quick else (IMAGES, SAMPLES)
    black_and_white = binarized(test.images, training.EVALUATION_SEED)
    # The gap between both differs less from image to image than they do, so that fewer images suffice for it.
    some = to_float(black_and_white[:: len(test.images) // count]).to(args.where)
    for dimensions in LIKELIHOOD_SIZES:
        for seed in range(args.seeds):
            network = lab.trained(vanilla_vae_mnist, [train], args, seed=seed, latent_dim=dimensions)
            terms = training.evaluate(network, vanilla_vae_mnist.loss, black_and_white)
            log_p, elbo, sizes = log_likelihood(network, some, samples)
            mean, log_variance = training.batched(network.encode, args.where)(test.images)
            scores = {"neg_elbo": terms["neg_elbo"], "nll": terms["neg_elbo"] - (log_p - elbo).mean().item()}
            scores |= {"error": ((log_p - elbo).std() / len(some) ** 0.5).item(), "size": sizes.median().item()}
            results.add(f"{dimensions} dimensions", scores | {"kl": terms["kl"], "active": active_units(mean)})
    columns = {"neg_elbo": ("-ELBO", ".2f"), "nll": ("-log p(x)", ".2f"), "error": ("standard error of the gap", ".2f")}
    columns |= {"size": ("effective samples, median", ".0f"), "kl": ("KL", ".2f"), "active": ("active units", ".1f")}
    title = f"VAE: nats per image of the {len(test.images):,} test digits, each pixel drawn black or white once"
    title += f"; the gap of the bound by {samples:,} samples for each of {len(some):,} digits"
    results.table(title, [f"{dimensions} dimensions" for dimensions in LIKELIHOOD_SIZES], columns)

    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=0)  # of the last model
    figures = sheets.Figures(f"VAE on {test.name}, {len(kl)} dimensions", args.images_dir, "claims")
    what = "the KL divergence of each latent dimension"
    with figures.drawing("kl_per_dimension", None, what, (sheets.WIDTH, 3.6)) as axes:
        axes.bar(range(1, len(kl) + 1), kl.sort(descending=True).values.numpy())
        axes.set(xlabel="latent dimensions, sorted", ylabel="KL (nats per image)")
        axes.xaxis.get_major_locator().set_params(integer=True)


class WideAutoencoder(vanilla_ae.Autoencoder):
    """The autoencoder's layers without its bottleneck: all have 512 outputs, which hold nearly all of a digit."""

    def __init__(self, latent_dim: int):
        super().__init__(latent_dim)
        for part in (self.encoder, self.decoder):
            for place, layer in enumerate(part):
                if hasattr(layer, "weight"):
                    part[place] = type(layer)(*(784 if size == 784 else 512 for size in layer.weight.shape[::-1]))


def denoising(train: Digits, test: Digits, results: lab.Results, args: Namespace) -> None:
    """The peak signal-to-noise ratio of noisy digits, of filters, and of networks that were trained to restore them."""
    clean, targets = to_float(test.images), to_float(train.images)
    noisy, examples = (add_noise(part, NOISE, torch.Generator().manual_seed(len(part))) for part in (clean, targets))
    linear = Ridge().fit(examples.flatten(1).numpy(), targets.flatten(1).numpy())
    filters = {"noisy": noisy.numpy(), "linear (ridge regression)": linear.predict(noisy.flatten(1).numpy())}
    filters["3x3 median"] = median_filter(noisy.numpy(), size=(1, 1, 3, 3), mode="mirror")
    for name, restored in filters.items():
        results.add(name, {"psnr": psnr(torch.from_numpy(restored).clamp(0, 1).view_as(clean), clean)})
    wide = [(vanilla_ae, "Autoencoder", WideAutoencoder)]
    # At the script's learning rate, so wide a network learns nothing but the mean image.
    networks = {
        "autoencoder, 32": ({"latent_dim": 32}, []),
        "its layers, all 512 wide": ({"latent_dim": 512, "lr": 1e-3}, wide),
    }
    for name, (choices, patches) in networks.items():
        for seed in range(args.seeds):
            model = model_of(lab.trained(vanilla_ae, [train], args, patches, seed=seed, noise=NOISE, **choices), False)
            results.add(name, {"psnr": psnr(model.decode(model.encode(noisy)[0]), clean)})
    title = f"Denoising: mean PSNR of test digits with Gaussian noise of standard deviation {NOISE}, clipped to [0, 1]"
    results.table(title, [*filters, *networks], {"psnr": ("dB (higher is better)", ".2f")})


def draw_sizes(results: lab.Results, figures: sheets.Figures) -> None:
    """The error over the size of the code."""
    with figures.drawing("sizes", None, "test error over the size of the code", (sheets.WIDTH, 4.2)) as axes:
        for kind in ("PCA", "AE", "VAE"):
            mse = np.array([results.found[f"{kind}, {dimensions}"]["mse"] for dimensions in SIZES]).T
            axes.errorbar(SIZES, mse.mean(axis=0), mse.std(axis=0, ddof=len(mse) > 1), fmt="-o", capsize=3, label=kind)
        axes.set_xscale("log", base=2)
        axes.set_xticks(SIZES, SIZES)
        axes.set(xlabel="latent dimensions", ylabel="mean squared error of the pixels", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()


def draw_betas(train: Digits, test: Digits, figures: sheets.Figures, args: Namespace) -> None:
    """The row from AE to VAE: for each beta the map of the test digits and, under it, samples from N(0, I)."""
    noise = torch.randn(ROW, 2, generator=torch.Generator().manual_seed(0))
    colours = np.array(maps.PALETTE)[test.labels]
    what = "from AE to VAE, codes of the test digits, and samples from N(0, I)"
    layout = {"nrows": 2, "ncols": len(BETAS), "height_ratios": (2, 1)}
    with figures.drawing("betas", None, what, (sheets.WIDTH, 3.7), **layout) as panels:
        for (top, bottom), beta in zip(panels.T, BETAS, strict=True):
            choices = {"latent_dim": 2} | ({} if beta == 1 else {"beta": beta})
            model = model_of(lab.trained(vanilla_vae_mnist, [train], args, seed=0, **choices), True)
            top.scatter(*model.encode(test.images)[0].T, c=colours, s=1, linewidths=0)
            top.add_patch(Circle((0, 0), 2, fill=False, linestyle="--"))
            top.set(title=f"beta {beta:g}", aspect="equal", adjustable="datalim", xticks=[], yticks=[])
            sheets.show(bottom, model.decode(noise)[:, 0].unflatten(0, (2, ROW // 2)).numpy())
        bottom.figure.supxlabel("dashed: two standard deviations of N(0, I); a colour for each class", fontsize=9)


def claims_of_faces(args: Namespace) -> None:
    train, valid, test = (part.first(args.limit) for part in load_faces(args.faces, args.data_dir))
    script, dimensions = vanilla_vae_celeba, vanilla_vae_celeba.DEFAULTS["latent_dim"]
    results = lab.Results(f"{train.description}, {args.epochs} epochs, {args.seeds} seeds; {lab.machine(args)}")
    features, reference = lab.features(train, test, args)
    judge = Judge(features, test.images)
    models = {"PCA": principal_components(train.images, dimensions, args.where)(dimensions)}
    # The script takes this step for the VAE alone; here, both are compared before and after it.
    as_trained = [(script, "standardize", lambda *_: None)]
    for seed in range(args.seeds):
        results.add("training images", judge.training_images(train.images, seed))
        for kind, choices in {"PCA": None, "AE": {"ae": True}, "VAE": {}}.items():
            scores = {}
            if choices is not None:
                network = lab.trained(script, [train, valid], args, as_trained, seed=seed, **choices)
                models[kind] = model_of(network, kind == "VAE")
            if kind == "VAE":
                scores = training.evaluate(network, script.loss, test.images)
                scores["active"] = active_units(models[kind].encode(test.images)[0])
                scaled = copy.deepcopy(network)
                script.standardize(scaled, *training.batched(scaled.encode, args.where)(train.images))
                scores["scaled"] = training.evaluate(scaled, script.loss, test.images)["neg_elbo"]
            scores["mse"] = models[kind].mse(test.images)
            results.add(kind, scores | judge.all_ways(models[kind], train.images, test.images, seed))
    columns = {"mse": ("MSE", ".5f"), "neg_elbo": ("-ELBO (nats)", ".1f"), "scaled": ("-ELBO, scaled", ".1f")}
    columns |= {"kl": ("KL (nats)", ".1f"), "active": ("active units", ".1f")}
    results.table(f"Faces, {dimensions} dimensions, test scores", [*models], columns)
    realism(results, reference, [*models])
    files.write_json(args.results / "claims_faces.json", vars(results))

    rows, names = [], []  # of the last models
    for kind in ("AE", "VAE"):
        points = codes_to_decode(models[kind], train.images, test.images, 0)
        for way, name in zip(WAYS[3:5], (kind, f"{kind},\nscaled"), strict=True):
            rows.append(models[kind].decode(points[way][: 2 * ROW]).unflatten(0, (2, ROW)))
            names += [name, ""]
    figures = sheets.Figures(train.name, args.images_dir, "claims")
    figures.sheet("face_samples", None, "decoded from the same random draws of N(0, I)", torch.cat(rows), names=names)


def main(argv: Sequence[str] = ()) -> None:
    args = lab.parser("claims.py", __doc__, [*EPOCHS]).parse_args(argv)
    args.epochs = args.epochs or EPOCHS[args.command]
    lab.prepare(args)
    {"digits": claims_of_digits, "faces": claims_of_faces}[args.command](args)


if __name__ == "__main__":
    cli.run(main)

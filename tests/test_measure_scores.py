import math

import pytest
import torch
from measure.scores import PrincipalComponents, frechet_distance, linear_accuracy


def test_principal_components_leave_the_smallest_singular_values():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    values = torch.linalg.svdvals(inputs - inputs.mean(dim=0))
    for dimensions in (1, 5, 12):
        components = PrincipalComponents.fit(inputs, dimensions)
        latent = components.encode(inputs)
        assert latent.shape == (200, dimensions)
        error = (components.decode(latent) - inputs).square().sum().item()
        assert error == pytest.approx(values[dimensions:].square().sum().item(), rel=1e-3, abs=1e-2)


def test_principal_components_of_other_data_use_the_mean_they_were_fitted_with():
    components = PrincipalComponents.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), 1)
    torch.testing.assert_close(
        components.decode(components.encode(torch.tensor([[10.0, 7.0]]))), torch.tensor([[10.0, 5.0]])
    )


def test_a_linear_classifier_separates_linear_classes_and_guesses_otherwise():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(2000, 5, generator=generator)
    linear = (points[:, 0] + 2 * points[:, 1] > 0.3).long()
    folded = (points[:, 0] * points[:, 1] > 0).long()
    assert linear_accuracy(points[:1000], linear[:1000], points[1000:], linear[1000:]) > 0.98
    assert linear_accuracy(points[:1000], folded[:1000], points[1000:], folded[1000:]) < 0.6


def test_a_linear_classifier_does_not_depend_on_the_features_scale_and_offset():
    generator = torch.Generator().manual_seed(2)
    points, labels = torch.randn(300, 4, generator=generator), torch.randint(0, 3, (300,), generator=generator)
    points += torch.nn.functional.one_hot(labels, 4)
    plain = linear_accuracy(points[:200], labels[:200], points[200:], labels[200:])
    moved = linear_accuracy(50 + 7 * points[:200], labels[:200], 50 + 7 * points[200:], labels[200:])
    assert plain == moved > 0.4


def test_the_penalty_is_half_the_squared_weights_over_the_number_of_images():
    """Two points at -1 and 1: the weights w, -w minimise log(1 + exp(-2w)) + w^2 / 2; a flip needs w < 0."""
    train, labels = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    seen = {}
    original = torch.optim.LBFGS.step

    def step(self, closure):
        value = original(self, closure)
        seen["weight"] = self.param_groups[0]["params"][0].detach().clone()
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.LBFGS, "step", step)
        linear_accuracy(train, labels, train, labels)
    w = seen["weight"][0, 1].item()
    assert 2 / (1 + math.exp(2 * w)) == pytest.approx(w, rel=1e-3)


def test_the_frechet_distance_of_known_gaussians():
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2; the same in a rotated space."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(400, 3, generator=generator).double()
    noise -= noise.mean(dim=0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T))).T  # covariance exactly I
    first = noise * torch.tensor([1.0, 2.0, 3.0]) + 1
    second = noise * torch.tensor([2.0, 2.0, 0.5]) - 1
    expected = 12 + 1 + 0 + 2.5**2
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_where_covariances_do_not_commute():
    """Against the square root of the product itself, whose eigenvalues are real."""
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(50, 4, generator=generator) @ torch.randn(4, 4, generator=generator) for _ in range(2))
    product = torch.cov(first.double().T) @ torch.cov(second.double().T)
    cross = torch.linalg.eigvals(product).sqrt().real.sum()
    offset = (first.double().mean(dim=0) - second.double().mean(dim=0)).square().sum()
    expected = offset + torch.cov(first.double().T).trace() + torch.cov(second.double().T).trace() - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-6)


def test_a_feature_that_never_varies_does_no_harm():
    features = torch.randn(30, 3, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0, 0.0, 1.0])
    assert frechet_distance(features, features + torch.tensor([0.0, 2.0, 0.0])) == pytest.approx(4, rel=1e-5)

"""Planes, typical points and Gaussians in the latent space, compared with independent computations."""

import pytest
import torch

from common import latent


def test_the_plane_of_more_than_two_dimensions_shows_the_greatest_variance():
    points = torch.randn(4000, 5) * torch.tensor([0.1, 3.0, 0.2, 0.1, 7.0]) + 2
    plane = latent.Plane.of(points)
    coordinates = plane.project(points)
    assert coordinates.std(0).tolist() == pytest.approx([7, 3], rel=0.1)
    assert coordinates.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(plane.project(plane.lift(coordinates)), coordinates, atol=1e-4, rtol=1e-4)
    assert "principal component 1 of 5" in plane.axis_names[0]
    # Around the prior's circles, its centre is the origin.
    assert (latent.Plane.of(points, prior=True).project(torch.zeros(1, 5)) == 0).all()


def test_typical_points_lie_among_their_class_even_if_its_median_does_not():
    """The first class has two parts, with the second class between them, where its median is."""
    centres = torch.tensor([[-10.0, 0]] * 400 + [[10, 0]] * 300 + [[0, 0]] * 500)
    points = centres + torch.randn(1200, 2, generator=torch.Generator().manual_seed(0))
    points[0], points[-1] = points[-1].clone(), points[0].clone()  # strays
    first, second = points[latent.typical(points, torch.tensor([0] * 700 + [1] * 500))]
    assert (first.abs() - torch.tensor([10.0, 0])).norm() < 3 and second.norm() < 3


def test_the_fitted_gaussian_has_the_codes_mean_and_covariance_even_where_they_do_not_vary():
    mixing = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0]])
    codes = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ mixing + 5
    mean, factor = latent.fit_gaussian(codes)
    torch.testing.assert_close(mean, codes.mean(dim=0))
    torch.testing.assert_close(factor @ factor.T, torch.cov(codes.T), atol=1e-4, rtol=1e-4)

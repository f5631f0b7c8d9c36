"""Walks, planes and Gaussians in the latent space, compared with independent computations."""

import pytest
import torch

from common import latent


def test_interpolation_is_the_straight_line_between_its_ends():
    start, end = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0])
    line = latent.interpolate(start, end, 5)
    assert line.shape == (5, 2)
    assert torch.equal(line[0], start) and torch.equal(line[-1], end)
    torch.testing.assert_close(line[1], torch.tensor([1.5, -0.5]))
    torch.testing.assert_close(line.diff(dim=0), torch.tensor([[0.5, 1.5]]).expand(4, 2))


def test_plane_is_the_space_itself_in_two_dimensions():
    points = torch.randn(50, 2)
    plane = latent.Plane.of(points)
    assert torch.equal(plane.project(points), points) and torch.equal(plane.lift(points), points)


def test_plane_of_more_dimensions_shows_the_greatest_variance():
    points = torch.randn(4000, 5) * torch.tensor([0.1, 3.0, 0.2, 0.1, 7.0]) + 2
    plane = latent.Plane.of(points)
    coordinates = plane.project(points)
    assert coordinates.std(0).tolist() == pytest.approx([7, 3], rel=0.1)
    assert coordinates.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(plane.project(plane.lift(coordinates)), coordinates, atol=1e-4, rtol=1e-4)
    assert "principal component 1" in plane.axis_names[0]
    # Around the prior's circles, its centre is the origin.
    assert (latent.Plane.of(points, prior=True).project(torch.zeros(1, 5)) == 0).all()


def test_one_dimension_lies_on_a_line():
    plane = latent.Plane.of(torch.randn(10, 1))
    assert (plane.project(torch.randn(10, 1))[:, 1] == 0).all()
    assert plane.lift(torch.randn(10, 2)).shape == (10, 1)


def test_typical_points_lie_among_their_class_even_if_its_median_does_not():
    """The first class has two parts, with the second class between them, where its median is."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-10.0, 0]] * 400 + [[10, 0]] * 300 + [[0, 0]] * 500)
    points, labels = centres + torch.randn(1200, 2, generator=generator), torch.tensor([0] * 700 + [1] * 500)
    points[0] = 0.0  # a stray
    found = latent.typical(points, labels)
    assert labels[found].tolist() == [0, 1]
    assert (points[found[0]] - torch.tensor([-10.0, 0])).norm() < 4 or (
        points[found[0]] - torch.tensor([10.0, 0])
    ).norm() < 4
    assert points[found[1]].norm() < 4 and found[0] != 0
    assert latent.typical(points[:5], labels[:5]).shape == (1,)


def test_the_fitted_gaussian_has_the_codes_mean_and_covariance_even_where_they_do_not_vary():
    codes = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[2.0, 1, 0], [0, 1, 0], [0, 0, 0]]
    )
    mean, factor = latent.fit_gaussian(codes + 5)
    torch.testing.assert_close(mean, codes.mean(dim=0) + 5)
    torch.testing.assert_close(factor @ factor.T, torch.cov(codes.T), atol=1e-4, rtol=1e-4)

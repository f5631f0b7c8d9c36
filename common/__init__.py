"""Code that the three scripts share: everything but the models."""

"""Conda environments of algorithms: resolve, build and fill them."""

"""Conda environments of algorithms: resolve them, build them, fill them."""

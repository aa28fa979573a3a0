"""Reads the text in an image."""

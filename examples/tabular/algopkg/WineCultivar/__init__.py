"""Classifies the rows of a table."""

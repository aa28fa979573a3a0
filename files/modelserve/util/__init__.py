"""Helpers without knowledge of modelserve: files, HTTP, time."""

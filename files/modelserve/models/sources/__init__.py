"""Where models come from: a module for each source of ``models.yml``."""

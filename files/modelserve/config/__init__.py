"""conf.ini: read, check and hold what it says; no Ray, no network."""

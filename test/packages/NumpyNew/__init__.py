"""Says which numpy it runs on: 2.3.5, which excludes the other one's."""

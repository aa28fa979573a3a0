"""Says which numpy it runs on: 2.1.3, which excludes the other one's."""

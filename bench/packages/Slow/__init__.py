"""Takes its time over each request."""

"""Echo: answers with the request; what is left to measure is everything else."""

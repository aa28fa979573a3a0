"""What a package's author uses before a deploy: scaffold, trial, benchmark and logs."""

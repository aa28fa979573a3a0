"""Make the cluster serve what conf.ini says: plan, rollout, releases and rollback."""

"""Nodes: start Ray on one, join it to the cluster, list, drain and deregister them."""

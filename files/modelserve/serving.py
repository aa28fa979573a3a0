"""The import path of every served application and kept release: ``modelserve.serving:build``."""

from modelserve.replica.deployment import build as build

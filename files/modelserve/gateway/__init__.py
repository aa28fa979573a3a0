"""The gateway: HAProxy's configuration, the running HAProxy, and gateways on other hosts."""

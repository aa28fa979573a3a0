"""A package's class as a Ray Serve deployment. It runs inside a replica, in the algorithm's environment."""

from __future__ import annotations

from typing import Any

from modelserve.replica import cpu_threads, exits, memory, print_compat, ray_compat, secret_variables
from modelserve.replica.application import Application
from modelserve.replica.health import Health
from modelserve.replica.package import Backend
from modelserve.replica.responses import logger
from modelserve.serve.contract import AppArgs, UserConfig

# Between the replicas' HTTP ports and those that the kernel chooses from: the firewall closes them to others.
INTERNAL_PORTS = range(31000, 32000)


class Algorithm:
    """The Serve deployment of a package.

    Attributes:
        application: the ASGI application that answers its requests.
        backend: the loaded backend.
        health: the judgement on this replica.
        cpu_threads: the number of threads of its numeric libraries.
    """

    def __init__(self, args: dict[str, Any]) -> None:
        """Load the backend.

        Args:
            args: fields of :class:`AppArgs`.

        Raises:
            RuntimeError: the values of the section's secrets are not available.
            Exception: whatever loading the backend raises.
        """
        parsed = AppArgs.model_validate(args)
        ray_compat.bind_within(INTERNAL_PORTS)
        print_compat.fix_print()
        exits.report_exits(logger.error)
        memory.start(parsed.memory_limit, logger.error)
        secret_variables.set_variables(parsed)
        reserved, own = ray_compat.reserved_cpus(), ray_compat.own_variables()
        self.cpu_threads = cpu_threads.set_variables(parsed.cpu_threads, reserved, own)
        logger.info(f"CPU threads: {self.cpu_threads}")
        self.backend = Backend(parsed)
        self.health = Health(
            self.backend.runner.running,
            self.backend.own_check,
            self.backend.fatal_errors,
            ray_compat.check_health_now,
        )
        self.backend.runner.judge = self.health.judge
        self.application = Application(parsed.name, parsed.methods, self.backend, self.health)
        ray_compat.stand_before_serve(self.application, has_routes=self.backend.app is not None)
        self._warm = False

    @property
    def app(self) -> Any:
        """The class's own ASGI application, whose routes Serve counts one by one; None where it brings none."""
        return self.backend.app

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application; Serve calls this after the constructor."""
        return self.application

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take a user configuration. Serve calls this before a replica takes traffic and when ``config`` changes.

        The section's part of it goes to the class. A new replica then runs the warm-up request.

        Args:
            config: fields of :class:`UserConfig`.
        """
        parsed = UserConfig.model_validate(config)
        self.application.timeout_s = self.health.timeout_s = parsed.request_timeout
        self.application.example = parsed.warmup
        if parsed.user_config is not None:
            await self.backend.reconfigure(parsed.user_config)
        if parsed.warmup is not None and not self._warm:
            await self.backend.warm_up(parsed.warmup)
        self._warm = True

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the requests that Serve's autoscaling counts for this replica, those in the gateway's queue included.

        Serve calls this where the number of replicas follows the load. Its own count ends at ``max_ongoing_requests``.
        """
        return {ray_compat.RUNNING_REQUESTS: self.application.load.measure()}

    async def check_health(self) -> None:
        """Check whether this replica can answer. Serve calls this once before it takes traffic, then periodically.

        Raises:
            UnhealthyError: it cannot, with the reason.
        """
        await self.health.check()

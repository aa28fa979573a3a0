"""An algorithm as Serve runs it: made of a section, or read back from a release or from Serve."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelserve import hashing
from modelserve.config.routes import Limits, prefix_of
from modelserve.config.section import Section
from modelserve.serve.contract import AppArgs, Secret, UserConfig

IMPORT_PATH = "modelserve.serving:build"
# Time until Serve notices a dead replica; its default is 10.
HEALTH_CHECK_PERIOD_S = 2
# Serve replaces a replica whose event loop does not answer for three times this long.
HEALTH_CHECK_TIMEOUT_S = 30
SURGE_PERCENT = {"rolling": 100, "recreate": 0}


@dataclass(frozen=True)
class Content:
    """Immutable content of the store: its path, and the hash in its name."""

    path: Path
    hash: str

    @classmethod
    def directory(cls, path: Path) -> Content:
        """Return a package or an environment: ``<Name>-<hash>``."""
        return cls(path, path.name.rpartition("-")[2])

    @classmethod
    def model(cls, path: Path) -> Content:
        """Return a model, a file or a directory: ``<hash>/<name>``."""
        return cls(path, path.parent.name)


@dataclass(frozen=True)
class Resources:
    """What a replica reserves. Serve's numbers are kept as they are: their form is part of an application's identity.

    Attributes:
        cpus: CPU cores.
        gpus: GPUs or a fraction of one.
        memory: bytes.
        labels: Ray's label selector: each label with its value, or with ``!`` and a value that it must not have.
    """

    cpus: float = 0
    gpus: float = 0
    memory: float = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_serve(cls, options: Mapping[str, Any]) -> Resources:
        """Return the resources of a deployment's ``ray_actor_options``."""
        cpus, gpus, memory = (options.get(key) or 0 for key in ("num_cpus", "num_gpus", "memory"))
        return cls(cpus, gpus, memory, options.get("label_selector") or {})

    def to_serve(self) -> dict[str, Any]:
        """Return a deployment's ``ray_actor_options``, without the options that a section does not use."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory:
            options["memory"] = self.memory
        if self.labels:
            options["label_selector"] = dict(self.labels)
        return options

    @property
    def amounts(self) -> dict[str, float]:
        """The amounts by Ray's kind of resource (``memory`` in bytes)."""
        return {"GPU": self.gpus, "CPU": self.cpus, "memory": self.memory}


@dataclass(frozen=True)
class Autoscaling:
    """The limits of Serve's autoscaling.

    Attributes:
        minimum: fewest replicas; 0 stops the last one when there are no requests.
        maximum: most replicas.
        target_ongoing_requests: requests per replica that the scaling keeps to.
        initial: replicas that a deploy starts; None keeps the number that the load had led to.
    """

    minimum: int
    maximum: int
    target_ongoing_requests: float
    initial: int | None = None

    @classmethod
    def from_section(cls, section: Section) -> Autoscaling | None:
        """Return the scaling that a section asks for; None for a fixed number of replicas."""
        if section.max_replicas is None:
            return None
        # A deploy that starts no replica would not prove that one can start.
        starts = "replicas" in section.model_fields_set or section.min_replicas == 0
        initial = section.replicas if starts else None
        return cls(section.min_replicas, section.max_replicas, section.target_ongoing_requests, initial)

    @classmethod
    def from_serve(cls, config: Mapping[str, Any] | None) -> Autoscaling | None:
        """Return the scaling of an ``autoscaling_config``, to which Serve adds defaults of its own."""
        if not config:
            return None
        target = config.get("target_ongoing_requests") or 2
        return cls(
            config.get("min_replicas", 1), config.get("max_replicas") or 1, target, config.get("initial_replicas")
        )

    def to_serve(self) -> dict[str, Any]:
        """Return the ``autoscaling_config``."""
        config: dict[str, Any] = {
            "min_replicas": self.minimum,
            "max_replicas": self.maximum,
            "target_ongoing_requests": self.target_ongoing_requests,
        }
        return config if self.initial is None else {**config, "initial_replicas": self.initial}


@dataclass(frozen=True, eq=False)
class Application:
    """An algorithm as Serve runs it. Two are equal when Serve is given the same of them.

    Attributes:
        name: the section's name.
        prefix: the path at which Serve answers it.
        environment: the conda environment.
        package: the package's snapshot.
        models: the models.
        variables: environment variables of its replicas.
        args: what a replica is made of.
        user_config: what running replicas take in.
        resources: what a replica reserves.
        replicas: number of replicas where ``autoscaling`` is None.
        autoscaling: limits of the number of replicas.
        max_ongoing_requests: requests that a replica holds at the same time.
        drain_timeout_s: seconds that a stopping replica has to finish its requests.
        update: ``rolling`` starts new replicas before old ones stop, ``recreate`` stops the old ones first.
    """

    name: str
    prefix: str
    environment: Content
    package: Content
    models: tuple[Content, ...]
    variables: Mapping[str, str]
    args: AppArgs
    user_config: UserConfig
    resources: Resources
    replicas: int
    autoscaling: Autoscaling | None
    max_ongoing_requests: int
    drain_timeout_s: float
    update: str
    # The document that it was read from. Serve restarts replicas when a document differs, so an application that
    # another version made is given back as it was.
    _document: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def from_section(
        cls,
        section: Section,
        package: Path,
        models: Iterable[Path],
        environment: Path,
        secrets: Mapping[str, Secret] | None = None,
    ) -> Application:
        """Return the application of a section.

        Args:
            section: the section.
            package: the package's snapshot in the store.
            models: the models in the store.
            environment: the environment's prefix.
            secrets: by environment variable: the section's secrets.
        """
        files = tuple(models)
        variables = _activation(environment) | section.env
        args = args_of(section, package, files, secrets)
        resources = Resources(section.cpu_cost, section.gpu_cost, section.memory, section.labels)
        user_config = UserConfig(
            user_config=section.user_config,
            warmup=section.warmup,
            identity=_identity(_runtime_env(environment, variables), args.to_serve(), resources.to_serve()),
            request_timeout=section.request_timeout,
            max_queued_requests=section.max_queued_requests,
            retry_unanswered=section.retry_unanswered,
        )
        return cls(
            name=section.name,
            prefix=prefix_of(section.name),
            environment=Content.directory(environment),
            package=Content.directory(package),
            models=tuple(map(Content.model, files)),
            variables=variables,
            args=args,
            user_config=user_config,
            resources=resources,
            replicas=section.replicas,
            autoscaling=Autoscaling.from_section(section),
            max_ongoing_requests=section.concurrency,
            drain_timeout_s=section.drain_timeout_s,
            update=section.update,
        )

    @classmethod
    def from_serve(cls, document: Mapping[str, Any]) -> Application:
        """Return the application of a ``ServeApplicationSchema`` document, of any version of modelserve.

        Raises:
            ValueError: the document is not one of modelserve's.
        """
        try:
            # A newer version may have more arguments.
            arguments = {key: value for key, value in document["args"].items() if key in AppArgs.model_fields}
            args = AppArgs.model_validate(arguments)
            runtime_env = document["runtime_env"]
            (deployment,) = document["deployments"]
            return cls(
                name=document["name"],
                prefix=document["route_prefix"],
                environment=Content.directory(Path(runtime_env["py_executable"]).parent.parent),
                package=Content.directory(Path(args.package)),
                models=tuple(Content.model(Path(model)) for model in args.models),
                variables=runtime_env.get("env_vars") or {},
                args=args,
                user_config=UserConfig.model_validate(deployment.get("user_config") or {}),
                resources=Resources.from_serve(deployment.get("ray_actor_options") or {}),
                replicas=int(deployment.get("num_replicas") or 1),
                autoscaling=Autoscaling.from_serve(deployment.get("autoscaling_config")),
                max_ongoing_requests=deployment.get("max_ongoing_requests", 100),
                drain_timeout_s=deployment.get("graceful_shutdown_timeout_s", 60),
                update="recreate" if deployment.get("max_surge_percent") == 0 else "rolling",
                _document=copy.deepcopy(dict(document)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not an application of modelserve: {' '.join(str(error).split())[:300]}") from error

    def __eq__(self, other: object) -> bool:
        """Return whether Serve is given the same of both."""
        return isinstance(other, Application) and self.to_serve() == other.to_serve()

    __hash__ = None  # type: ignore[assignment]  # its document cannot be hashed

    @property
    def contents(self) -> tuple[Content, ...]:
        """The content of the store that it needs, the environment first."""
        return (self.environment, self.package, *self.models)

    @property
    def scales_to_zero(self) -> bool:
        """Whether it may have no replica while there are no requests."""
        return self.autoscaling is not None and self.autoscaling.minimum == 0

    def recreated(self) -> Application:
        """Return the application with old replicas that stop before new ones start."""
        document = self.to_serve()
        document["deployments"][0]["max_surge_percent"] = SURGE_PERCENT["recreate"]
        return replace(self, update="recreate", _document=document)

    def with_secrets(self, secrets: Mapping[str, Secret]) -> Application:
        """Return the application with other digests of its secrets, by environment variable."""
        args = self.args.model_copy(update={"secrets": dict(secrets)})
        if args == self.args:
            return self
        document = self.to_serve()
        document["args"]["secrets"] = args.to_serve()["secrets"]
        (deployment,) = document["deployments"]
        identity = _identity(document["runtime_env"], document["args"], deployment.get("ray_actor_options", {}))
        deployment["user_config"]["identity"] = identity
        return replace(
            self,
            args=args,
            user_config=self.user_config.model_copy(update={"identity": identity}),
            _document=document,
        )

    def to_serve(self) -> dict[str, Any]:
        """Return the ``ServeApplicationSchema`` document (Ray 2.60)."""
        if self._document is not None:
            return copy.deepcopy(dict(self._document))
        return {
            "name": self.name,
            "route_prefix": self.prefix,
            "import_path": IMPORT_PATH,
            "runtime_env": _runtime_env(self.environment.path, self.variables),
            "args": self.args.to_serve(),
            "deployments": [self._deployment()],
        }

    def _deployment(self) -> dict[str, Any]:
        scaling = self.autoscaling
        return {
            "name": self.name,
            **({"num_replicas": self.replicas} if scaling is None else {"autoscaling_config": scaling.to_serve()}),
            "max_ongoing_requests": self.max_ongoing_requests,
            # With a surge, new replicas answer before old ones stop: no request is lost, a failed update does no harm.
            "max_surge_percent": SURGE_PERCENT[self.update],
            "health_check_period_s": HEALTH_CHECK_PERIOD_S,
            "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
            "graceful_shutdown_timeout_s": self.drain_timeout_s,
            "user_config": self.user_config.to_serve(),
            "ray_actor_options": self.resources.to_serve(),
        }


Applications = Mapping[str, Application]


def limits_of(application: Application) -> Limits:
    """Return what the gateway keeps to in an application's requests."""
    options = application.user_config
    return Limits(
        max_ongoing_requests=application.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        request_timeout=options.request_timeout,
        retry_unanswered=options.retry_unanswered,
        scales=application.autoscaling is not None,
    )


def args_of(
    section: Section, package: Path, models: Iterable[Path], secrets: Mapping[str, Secret] | None = None
) -> AppArgs:
    """Return what a replica of a section is made of.

    Args:
        section: the section.
        package: the package's directory.
        models: the models.
        secrets: by environment variable: the secrets that the replica fetches; None: its process has them already.
    """
    return AppArgs(
        name=section.name,
        package=str(package),
        backend=section.backend,
        models=[str(model) for model in models],
        methods=list(section.method),
        configured=section.user_config is not None,
        batch_size=section.batch_size,
        batch_wait=section.batch_wait,
        memory_limit=section.memory_limit,
        secrets=dict(secrets or {}),
        cpu_threads=section.cpu_threads or 0,
    )


def _identity(runtime_env: Mapping[str, Any], args: Mapping[str, Any], resources: Mapping[str, Any]) -> str:
    """Return the hash of everything that needs new replicas when it changes."""
    return hashing.of_value([runtime_env, args, resources])


def _activation(environment: Path) -> dict[str, str]:
    # The variables that activating a conda environment sets: nothing is activated when a replica starts.
    return {"CONDA_PREFIX": str(environment), "PATH": f"{environment}/bin:/usr/local/bin:/usr/bin:/bin"}


def _runtime_env(environment: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    return {"py_executable": f"{environment}/bin/python", "env_vars": dict(variables)}


def deploy_document(applications: Iterable[Application], port: int) -> dict[str, Any]:
    """Return the whole configuration of Serve (``ServeDeploySchema``).

    Args:
        applications: everything that Serve runs from then on.
        port: the port of Serve's own proxy on the head, which is fixed for a cluster's life.
    """
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "0.0.0.0", "port": port},
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [application.to_serve() for application in applications],
    }

"""conf.ini: what users write is read as they mean it, and each mistake is named with file, section and key."""

from __future__ import annotations

import json
import keyword
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from modelserve.config.parser import parse
from modelserve.config.section import METHODS, RESERVED_ROUTES, Conf, Section
from modelserve.errors import Problem, UserError

SERVER = "[MODEL SERVE]\nport = 666\n"
SECTION = "[algopkg.Echo]\nbackend = Echo\nroute = echo\n"


def section(lines: str) -> Section:
    """The one section of a conf.ini, with ``lines`` beside the keys it needs."""
    (only,) = parse(SERVER + SECTION + lines).sections
    return only


def problems(text: str) -> list[Problem]:
    with pytest.raises(UserError) as caught:
        parse(text, "my.ini")
    return caught.value.problems


def problem(lines: str) -> Problem:
    """The one problem of a section with ``lines`` beside the keys it needs."""
    (only,) = problems(SERVER + SECTION + lines)
    return only


def test_a_section_needs_only_backend_and_route() -> None:
    assert section("") == Section(
        name="Echo",
        backend="Echo",
        route="echo",
        model=(),
        replicas=1,
        gpu_cost=0,
        cpu_cost=0,
        method=("GET",),
        warmup=None,
        user_config=None,
    )


def test_the_port_has_a_default() -> None:
    assert parse("[MODEL SERVE]\n") == Conf(port=666, sections=())


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("replicas = 3 # three of them", "replicas", 3),
        ("gpu_cost = 0.5 ; half a GPU", "gpu_cost", 0.5),
        ("gpu_cost = 2", "gpu_cost", 2),
        ("cpu_cost = 1.5", "cpu_cost", 1.5),
        ("model = a.pb,b.pb", "model", ("a.pb", "b.pb")),
        ("model = a.pb , b.pb,", "model", ("a.pb", "b.pb")),
        ("model = bert/, labels.txt", "model", ("bert", "labels.txt")),
        ("model =", "model", ()),
        ("model = # none", "model", ()),
        ("method = post, GET, get", "method", ("GET", "POST")),
        ('warmup = {"text": "hello"}', "warmup", {"text": "hello"}),
        ("user_config = [1, 2]", "user_config", [1, 2]),
        ('warmup = {"a": 1,\n  "b": 2}', "warmup", {"a": 1, "b": 2}),
        ("memory = 512MiB", "memory", 512 * 2**20),
        ("memory = 1.5 gib", "memory", 1.5 * 2**30),
        ("memory = 1GB", "memory", 10**9),
        ("memory = 4096", "memory", 4096),
        ("memory_limit = 2GiB", "memory_limit", 2 * 2**30),
        ("memory_limit =", "memory_limit", 0),
        ("memory = 1GiB\nmemory_limit = 1GiB", "memory_limit", 2**30),
        ("labels = modelserve.node=worker_1, zone = !b ,", "labels", {"modelserve.node": "worker_1", "zone": "!b"}),
        ("labels =", "labels", {}),
        ("max_replicas = 4", "max_replicas", 4),
        ("max_replicas =", "max_replicas", None),
        ("max_replicas = 4\nmin_replicas = 0", "min_replicas", 0),
        ("max_replicas = 4\ntarget_ongoing_requests = 1.5", "target_ongoing_requests", 1.5),
        ("max_ongoing_requests = 8", "max_ongoing_requests", 8),
        ("max_queued_requests = 8", "max_queued_requests", 8),
        ("request_timeout = 2.5", "request_timeout", 2.5),
        ("request_timeout =", "request_timeout", None),
        ("batch_size = 8", "batch_size", 8),
        ("batch_size = 8\nbatch_wait = 0", "batch_wait", 0),
        ("env.A_1 = x=y: z\nenv.b =", "env", {"A_1": "x=y: z", "b": ""}),
        ("secret.HF_TOKEN = hf_token\nsecret.b = b2", "secret", {"HF_TOKEN": "hf_token", "b": "b2"}),
        ("update = recreate", "update", "recreate"),
        ("enabled = yes", "enabled", True),
    ],
)
def test_a_value_is_read_as_it_is_meant(line: str, key: str, value: Any) -> None:
    assert getattr(section(line), key) == value


@pytest.mark.parametrize("written", ["a/b", "/a/b", "/a/b/"])
def test_slashes_around_a_route_do_not_matter(written: str) -> None:
    (only,) = parse(f"{SERVER}[algopkg.Echo]\nbackend = Echo\nroute = {written}\n").sections
    assert only.route == "a/b"


def test_sections_keep_the_order_of_the_file() -> None:
    text = "".join(f"[algopkg.{name}]\nbackend = B\nroute = {name}\n" for name in "CAB")
    assert [one.name for one in parse(SERVER + text).sections] == ["C", "A", "B"]


@pytest.mark.parametrize("sign", "#;")
def test_a_section_that_is_commented_out_is_gone(sign: str) -> None:
    commented = "".join(f"{sign} {line}\n" for line in SECTION.splitlines())
    assert parse(SERVER + commented).sections == ()
    assert [one.name for one in parse(SERVER + SECTION).sections] == ["Echo"]


def test_a_file_from_windows_is_read() -> None:
    assert parse((SERVER + SECTION).replace("\n", "\r\n")) == parse(SERVER + SECTION)


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("replicas = two", "replicas", "'two' is not a whole number"),
        ("replicas = 1.5", "replicas", "'1.5' is not a whole number"),
        ("replicas =", "replicas", "whole number"),
        ("replicas = 0", "replicas", "at least 1"),
        ("gpu_cost = half", "gpu_cost", "'half' is not a number"),
        ("gpu_cost = -1", "gpu_cost", "at least 0"),
        ("gpu_cost = 1.5", "gpu_cost", "whole number of GPUs"),
        ("gpu_cost = nan", "gpu_cost", "nan"),
        ("gpu_cost = inf", "gpu_cost", "inf"),
        ("cpu_cost = inf", "cpu_cost", "inf"),
        ("model = ../a.pb", "model", "'../a.pb' is a path"),
        ("model = /data/a.pb", "model", "'/data/a.pb' is a path"),
        ("model = ..", "model", "'..' is a path"),
        ("model = a.pb, a.pb", "model", "twice"),
        ("model = bert, bert/", "model", "twice"),
        ("model = caf\u00e9, cafe\u0301", "model", "twice"),
        ("method = FETCH", "method", "'FETCH' is not one of GET, POST"),
        ("method =", "method", "GET"),
        ("warmup = {text: hello}", "warmup", "is not JSON"),
        ("warmup = [1]", "warmup", "dictionary"),
        ("user_config = {", "user_config", "is not JSON"),
        ("user_config = " + "[" * 100_000, "user_config", "nested too deeply"),
        ("memory = much", "memory", "'much' is not a size"),
        ("memory = -1", "memory", "is not a size"),
        ("memory_limit = much", "memory_limit", "'much' is not a size"),
        ("memory = 5000TiB", "memory", "at most"),
        ("labels = worker_1", "labels", "'worker_1' is not a label"),
        ("labels = a=b c", "labels", "'a=b c' is not a label"),
        ("labels = a=b, a=c", "labels", "'a' twice"),
        ("max_replicas = 0", "max_replicas", "at least 1"),
        ("max_replicas = 4\nmin_replicas = 5", "min_replicas", "(5) is more than max_replicas (4)"),
        ("max_replicas = 4\nreplicas = 5", "replicas", "not between min_replicas (1) and max_replicas (4)"),
        ("max_replicas = 4\nmin_replicas = 2\nreplicas = 1", "replicas", "number a deploy starts"),
        ("min_replicas = 0", "min_replicas", "Add max_replicas"),
        ("target_ongoing_requests = 3", "target_ongoing_requests", "Add max_replicas"),
        ("max_replicas = 2\ntarget_ongoing_requests = 0", "target_ongoing_requests", "more than 0"),
        ("max_replicas = 2\nmax_ongoing_requests = 1", "max_ongoing_requests", "never holds so many"),
        ("max_ongoing_requests = 0", "max_ongoing_requests", "at least 1"),
        ("max_queued_requests = 0", "max_queued_requests", "at least 1"),
        ("request_timeout = 0", "request_timeout", "more than 0"),
        ("request_timeout = nan", "request_timeout", "nan"),
        ("batch_size = 101\nmax_ongoing_requests = 100", "batch_size", "max_ongoing_requests = 101 or more"),
        ("batch_wait = 1", "batch_wait", "Add batch_size"),
        ("memory = 2GiB\nmemory_limit = 1GiB", "memory_limit", "Raise memory_limit or lower memory"),
        ("env.PATH = /x", "env.PATH", "set by modelserve itself"),
        ("env.RAY_X = 1", "env.RAY_X", "set by modelserve itself"),
        ("env.1 = 1", "env.1", "not the name of an environment variable"),
        ("env = A=1", "env", "env.<NAME>"),
        ("secret.RAY_X = a", "secret.RAY_X", "set by modelserve itself"),
        ("secret.1 = a", "secret.1", "not the name of an environment variable"),
        ("secret.HF_TOKEN =", "secret.HF_TOKEN", "names no secret. Write secret.HF_TOKEN = hf_token"),
        ("secret.A = ../a", "secret.A", "is not the name of a secret"),
        ("secret = a", "secret", "secret.<NAME>"),
        ("env.A = 1\nsecret.A = a", "secret.A", "A is also set by env.A. Remove one of them"),
        ("update = slow", "update", "'rolling' or 'recreate'"),
        ("enabled = maybe", "enabled", "Write true or false"),
        ("replicsa = 1", "replicsa", "Did you mean 'replicas'?"),
        ("GPU_COST = 1", "GPU_COST", "Did you mean 'gpu_cost'?"),
        ("zzz = 1", "zzz", "Known keys: backend, model"),
        ("name = Other", "name", "unknown key"),
    ],
    ids=lambda value: value[:30],
)
def test_a_mistake_names_file_section_and_key(line: str, key: str, words: str) -> None:
    found = problem(line)
    assert (found.file, found.section, found.key) == ("my.ini", "algopkg.Echo", key)
    assert words in str(found)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_must_be_one(port: str) -> None:
    (found,) = problems(f"[MODEL SERVE]\nport = {port}\n")
    assert (found.section, found.key) == ("MODEL SERVE", "port")
    assert port in found.message


@pytest.mark.parametrize("route", ["", "/", "a b", "a//b", "../a", "a/..", "a?b", "ä", "./a"])
def test_a_route_must_be_a_path(route: str) -> None:
    (found,) = problems(f"{SERVER}[algopkg.Echo]\nbackend = Echo\nroute = {route}\n")
    assert found.key == "route"


@pytest.mark.parametrize("reserved", RESERVED_ROUTES)
def test_a_route_the_server_answers_itself_is_refused(reserved: str) -> None:
    (found,) = problems(f"{SERVER}[algopkg.Echo]\nbackend = Echo\nroute = /{reserved}/x\n")
    assert "is a route of the server itself" in found.message


@pytest.mark.parametrize("missing", ["backend", "route"])
def test_a_missing_key_is_named(missing: str) -> None:
    lines = [line for line in SECTION.splitlines() if not line.startswith(missing)]
    (found,) = problems(SERVER + "\n".join(lines))
    assert (found.section, found.key, found.message) == ("algopkg.Echo", missing, "is missing")


@pytest.mark.parametrize("backend", ["", "my-class", "a.b", "1st"])
def test_the_backend_must_be_a_class_name(backend: str) -> None:
    (found,) = problems(f"{SERVER}[algopkg.Echo]\nbackend = {backend}\nroute = echo\n")
    assert "not the name of a class" in found.message


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("MODEL_SERVE", "Did you mean [MODEL SERVE]?"),
        ("model serve", "Sections are [MODEL SERVE], [DEFAULTS] and [algopkg.<Name>]"),
        ("algopkg.my-package", "letters, digits and '_'"),
        ("algopkg.", "letters, digits and '_'"),
        ("Algopkg.Echo", "Write [algopkg.<Name>]"),
        ("Echo", "Sections are [MODEL SERVE], [DEFAULTS] and [algopkg.<Name>]"),
        ("DEFAULT", "Did you mean [DEFAULTS]?"),
    ],
)
def test_an_unknown_section_is_named_with_the_way_out(title: str, words: str) -> None:
    (found,) = problems(f"{SERVER}[{title}]\nbackend = B\nroute = r\n")
    assert found.section == title
    assert words in found.fix


def test_a_section_that_is_not_enabled_is_checked_and_not_served() -> None:
    off = "[algopkg.Off]\nbackend = Off\nroute = echo\nenabled = false\n"
    assert [one.name for one in parse(SERVER + SECTION + off).sections] == ["Echo"]
    (found,) = problems(SERVER + off + "replicas = 0\n")
    assert (found.section, found.key) == ("algopkg.Off", "replicas")


DEFAULTS = "[DEFAULTS]\nreplicas = 2\nenv.A = default\nenv.B = default\nmin_replicas = 0\n"


def test_a_section_has_the_defaults_and_its_own_values_win() -> None:
    own = SECTION.replace("Echo", "Own").replace("echo", "own") + "replicas = 3\nenv.A = own\n"
    echo, other = parse(SERVER + own + DEFAULTS + SECTION).sections[::-1]
    assert (echo.replicas, echo.env) == (2, {"A": "default", "B": "default"})
    assert (other.replicas, other.env) == (3, {"A": "own", "B": "default"})


def test_a_section_has_the_default_secrets_and_its_own_win() -> None:
    (only,) = parse(f"{SERVER}[DEFAULTS]\nsecret.A = a\nsecret.B = b\n{SECTION}secret.B = own\n").sections
    assert only.secret == {"A": "a", "B": "own"}


@pytest.mark.parametrize("value", ["hf_AbCd1234EfGh5678", "0f" * 20, "a" * 31, "s3cr3t-with-dashes", "two words"])
def test_a_value_in_the_place_of_a_secret_s_name_is_not_repeated(value: str) -> None:
    found = problem(f"secret.HF_TOKEN = {value}")
    assert "does not belong in conf.ini" in str(found)
    assert value not in str(found)


def test_a_section_can_lift_a_default() -> None:
    defaults = "[DEFAULTS]\nmax_replicas = 4\nrequest_timeout = 5\nlabels = a=b\n"
    (only,) = parse(SERVER + defaults + SECTION + "max_replicas =\nrequest_timeout =\nlabels =\n").sections
    assert (only.max_replicas, only.request_timeout, only.labels) == (None, None, {})


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("replicas = two", "replicas", "'two' is not a whole number"),
        ("replicsa = 2", "replicsa", "Did you mean 'replicas'?"),
        ("route = all", "route", "cannot have a default"),
        ("model = a.pb", "model", "cannot have a default"),
        ("name = a", "name", "unknown key"),
        ("env.PATH = /x", "env.PATH", "set by modelserve itself"),
        ("secret.A = B", "secret.A", "not the name of a secret"),
        ("env.A = 1\nsecret.A = a", "secret.A", "Remove one of them"),
        ("max_replicas = 2\nmin_replicas = 3", "min_replicas", "(3) is more than max_replicas (2)"),
    ],
)
def test_a_mistake_in_the_defaults_is_named_once_and_there(line: str, key: str, words: str) -> None:
    other = SECTION.replace("Echo", "Other").replace("echo", "other")
    (found,) = problems(f"{SERVER}[DEFAULTS]\n{line}\n{SECTION}{other}")
    assert (found.file, found.section, found.key) == ("my.ini", "DEFAULTS", key)
    assert words in str(found)


def test_defaults_that_contradict_each_other_are_named_by_a_key_they_have() -> None:
    defaults = "[DEFAULTS]\nmax_ongoing_requests = 1\nmax_replicas = 2\n"  # the target is 2 unless written
    (found,) = problems(SERVER + defaults + SECTION)
    assert (found.section, found.key) == ("DEFAULTS", "max_ongoing_requests")


def test_a_value_that_contradicts_a_default_is_named_where_it_is_written() -> None:
    (found,) = problems(f"{SERVER}[DEFAULTS]\nmin_replicas = 3\n{SECTION}max_replicas = 2\n")
    assert (found.section, found.key) == ("algopkg.Echo", "max_replicas")
    assert "min_replicas (3) is more than max_replicas (2)" in found.message


def test_a_missing_server_section_is_named() -> None:
    (found,) = problems(SECTION)
    assert "[MODEL SERVE] is missing" in found.message


def test_a_section_that_appears_twice_is_named_with_its_line() -> None:
    (found,) = problems(SERVER + SECTION + SECTION)
    assert str(found) == "my.ini:6 [algopkg.Echo]: appears twice, first in line 3. Remove one"


def test_a_key_that_is_set_twice_is_named_with_its_line() -> None:
    found = problem("route = other")
    assert str(found) == "my.ini:6 [algopkg.Echo] route: is set twice, first in line 5. Remove one"


def test_keys_that_differ_in_case_are_different_keys() -> None:
    found = problem("Route = other")
    assert (found.key, found.fix) == ("Route", "Did you mean 'route'?")


def test_a_route_that_two_algorithms_want_names_both() -> None:
    (found,) = problems(SERVER + SECTION + "[algopkg.Other]\nbackend = B\nroute = /echo/\n")
    assert (found.section, found.key) == ("algopkg.Other", "route")
    assert "[algopkg.Echo]" in found.message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port = 1\n" + SERVER, 1),
        (SERVER + "port 666\n", 3),
        (SERVER + "= 5\n", 3),
        (SERVER + "port ; the port = 666\n", 3),
    ],
)
def test_a_line_that_is_no_setting_is_named_and_shown(text: str, line: int) -> None:
    (found,) = problems(text)
    assert str(found).startswith(f"my.ini:{line}: this line ")
    assert "\\n" not in found.message


def test_all_problems_are_reported_at_once() -> None:
    text = "[MODEL SERVE]\nport = x\n[algopkg.A]\nbackend = A\nreplicas = 0\nmodle = a\n[Extra]\n"
    found = {(one.section, one.key) for one in problems(text)}
    assert found == {
        ("MODEL SERVE", "port"),
        ("algopkg.A", "replicas"),
        ("algopkg.A", "modle"),
        ("algopkg.A", "route"),
        ("Extra", ""),
    }


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
ROUTES = st.from_regex(r"[a-z0-9_~-]{1,6}(/[a-z0-9._~-]{1,6})?", fullmatch=True).filter(
    lambda route: route.split("/")[0] not in RESERVED_ROUTES and not {".", ".."} & set(route.split("/"))
)
FILES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,10}", fullmatch=True)
# Without the signs that begin a comment.
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="#;"))
LABELS = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def sections(draw: st.DrawFn) -> tuple[Section, ...]:
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    routes = draw(st.lists(ROUTES, unique=True, min_size=len(names), max_size=len(names)))
    return tuple(
        Section(
            name=name,
            backend=draw(NAMES),
            route=route,
            model=tuple(draw(st.lists(FILES, unique=True, max_size=3))),
            replicas=draw(st.integers(1, 1000)),
            gpu_cost=draw(st.integers(0, 8) | st.floats(0, 1)),
            cpu_cost=draw(st.floats(0, 64)),
            method=tuple(draw(st.lists(st.sampled_from(METHODS), min_size=1, unique=True))),
            warmup=draw(st.none() | st.dictionaries(WORDS, JSON, max_size=2)),
            user_config=json.dumps(draw(JSON)),
            max_replicas=draw(st.none() | st.just(1000)),
            memory=draw(st.integers(0, 2**49)),
            memory_limit=draw(st.just(0) | st.integers(2**49, 2**50)),
            labels=draw(st.dictionaries(LABELS, LABELS, max_size=2)),
            max_queued_requests=draw(st.none() | st.integers(1, 1000)),
            request_timeout=draw(st.none() | st.floats(0.001, 1000)),
            batch_size=draw(st.integers(1, 100)),
            env=draw(st.dictionaries(NAMES.map("V_{}".format), WORDS.map(str.strip), max_size=2)),
            update=draw(st.sampled_from(["rolling", "recreate"])),
        )
        for name, route in zip(names, routes, strict=True)
    )


def written(one: Section) -> str:
    values = {key: ", ".join(value) if isinstance(value, tuple) else value for key, value in one}
    values |= {key: json.dumps(values[key]) for key in ("warmup", "user_config")}
    values["labels"] = ", ".join(f"{key}={value}" for key, value in one.labels.items())
    for field in ("env", "secret"):
        values |= {f"{field}.{name}": value for name, value in values.pop(field).items()}
    needs = {"min_replicas": "max_replicas", "target_ongoing_requests": "max_replicas"}
    values = {key: "" if value is None else value for key, value in values.items()}
    values = {key: value for key, value in values.items() if values.get(needs.get(key, "route")) != ""}
    return f"[algopkg.{values.pop('name')}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


@settings(max_examples=50)
@given(st.integers(1, 65535), sections())
def test_what_is_written_is_what_is_read(port: int, wanted: tuple[Section, ...]) -> None:
    text = f"[MODEL SERVE]\nport = {port}\n" + "".join(map(written, wanted))
    assert parse(text) == Conf(port=port, sections=wanted)


LINES = st.sampled_from(
    [
        SERVER,
        SECTION,
        "[DEFAULTS]\n",
        "env.A",
        "[algopkg.",
        "]",
        "=",
        "\n",
        " ",
        "#",
        ";",
        "\r",
        "{",
        '"',
        "\0",
        "\ufeff",
    ]
)


@given(st.text() | st.lists(LINES | st.text(max_size=5)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(parse(text), Conf)
    except UserError as error:
        assert error.problems


@given(
    st.sampled_from(sorted(Section.model_fields))
    | st.text(max_size=5).map("env.{}".format)
    | st.text(max_size=5).map("secret.{}".format),
    st.text(max_size=20) | st.floats().map(str) | st.integers().map(str) | st.sampled_from(["1e9GiB", "a=b", "!"]),
)
@example("gpu_cost", "inf")
@example("replicas", "9" * 5000)
@example("memory", "9" * 5000)
@example("env.A", "a\0")
def test_any_value_is_read_or_refused(key: str, value: str) -> None:
    for text in (SECTION + f"{key} = {value}\n", f"[DEFAULTS]\n{key} = {value}\n{SECTION}"):
        try:
            assert isinstance(parse(SERVER + text), Conf)
        except UserError as error:
            assert all(problem.message for problem in error.problems)


KEYS = [*sorted(set(Section.model_fields) - {"name", "env", "secret"}), "env.A", "env.PATH", "secret.A"]
SETTINGS = st.dictionaries(
    st.sampled_from(KEYS),
    st.sampled_from(["", "0", "1", "2", "5", "1000", "0.5", "a", "a=b", "no", "1GiB"]),
    max_size=6,
)


@given(SETTINGS, SETTINGS)
def test_any_keys_together_are_read_or_refused(defaults: dict[str, str], own: dict[str, str]) -> None:
    lines = ["[DEFAULTS]", *(f"{key} = {value}" for key, value in defaults.items()), "[algopkg.Echo]"]
    lines += [f"{key} = {value}" for key, value in ({"backend": "Echo", "route": "echo"} | own).items()]
    try:
        assert isinstance(parse(SERVER + "\n".join(lines)), Conf)
    except UserError as error:
        written = {"DEFAULTS": defaults, "algopkg.Echo": {"backend": "", "route": "", **own}}
        assert all(problem.key in written[problem.section] for problem in error.problems)

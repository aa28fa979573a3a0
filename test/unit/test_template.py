"""A conf.ini that Ansible renders: what is wrong with it is named by line, section and key."""

from __future__ import annotations

import jinja2
import pytest
from modelserve.config import template
from modelserve.errors import UserError

TEXT = "[MODEL SERVE]\nport = 666\n[algopkg.Echo]\nbackend = Echo\nroute = echo\n"


def message_of(**variables: object) -> object:
    """Return a function that renders as Ansible does, with these variables."""

    def render(source: str) -> str:
        try:
            jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(source).render(variables)
        except jinja2.UndefinedError as error:
            return str(error)
        return ""

    return render


def failures(text: str, **variables: object) -> list[str]:
    return [str(problem) for problem in template.failures(text, "conf.ini", message_of(**variables))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            'user_config = {"prompt": "in {# one #} word"}\n',
            "conf.ini:6 [algopkg.Echo] user_config: '{#' begins a comment",
        ),
        ("env.A = {# one #} word\n", "conf.ini:6 [algopkg.Echo] env.A: '{#' begins a comment"),
        ('warmup = {\n  "a": "{# b #}"}\n', "conf.ini:7 [algopkg.Echo] warmup: '{#' begins a comment"),
        ('warmup = {"a": "{{ b"}\n', "conf.ini:6 [algopkg.Echo] warmup: is no valid template"),
        ('replicas = 1\nwarmup = {"a": "{% b"}\n', "conf.ini:7 [algopkg.Echo] warmup: is no valid template"),
        ('warmup = {"a": "{% b %}"}\n', "conf.ini:6 [algopkg.Echo] warmup: is no valid template"),
    ],
)
def test_braces_that_are_no_template_are_named_with_the_way_out(lines: str, words: str) -> None:
    (found,) = template.problems(TEXT + lines, "conf.ini")
    assert str(found).startswith(words)
    assert "Write {% raw %} before and {% endraw +%} after" in found.fix


@pytest.mark.parametrize(
    "lines",
    [
        'user_config = {% raw %}{"prompt": "{{ question }} {# one #} {% b"}{% endraw +%}\n',
        "replicas = 2 {# two #}\n",
        "{# [algopkg.Off]\nwarmup = {}\n#}\nenv.A = 1\n",
        'warmup = {"a": 1}\n{# a comment #}\n',
        'warmup = {"a": {"b": {}}}\n# {# a comment of both #}\n',
    ],
)
def test_a_good_template_has_no_problem(lines: str) -> None:
    assert template.problems(TEXT + lines, "conf.ini") == []


@pytest.mark.parametrize("end", ["", "\r"])
def test_a_tag_at_the_end_of_a_line_that_would_join_it_with_the_next_is_refused(end: str) -> None:
    line = f"env.A = {{% raw %}}a{{% endraw %}}{end}\n"
    (found,) = template.problems(TEXT + line + "replicas = 2\n", "conf.ini")
    assert str(found) == (
        "conf.ini:6 [algopkg.Echo] env.A: ends with a tag of templates, which joins it with the next line. "
        "Write +%} at its end in the place of %}"
    )
    for harmless in (line, line + "\nreplicas = 2\n", line.replace("endraw %}", "endraw +%}") + "replicas = 2\n"):
        assert template.problems(TEXT + harmless, "conf.ini") == []
        assert template.check(TEXT + harmless, "conf.ini").conf.sections[0].env == {"A": "a"}
    assert template.problems(TEXT + "{% if a %}\nreplicas = 2\n{% endif %}\nweight = 1\n", "conf.ini") == []


def test_a_variable_that_is_not_defined_is_named_at_its_key() -> None:
    prompt = 'user_config = {"prompt": "Answer {{ question }}"}\n'
    assert failures(TEXT + prompt + "replicas = {{ replicas }}\n", replicas=2) == [
        "conf.ini:6 [algopkg.Echo] user_config: 'question' is undefined. "
        "Write {% raw %} before and {% endraw +%} after what is no template"
    ]
    assert len(failures(TEXT + prompt + "replicas = {{ replicas }}\n")) == 2
    assert failures(TEXT + prompt, question="a") == []


def test_a_comment_is_rendered_too() -> None:
    (line,) = failures(TEXT + '# user_config = {"prompt": "{{ question }}"}\n')
    assert line == (
        "conf.ini:6: 'question' is undefined. A comment is rendered, too: remove the braces, "
        "or write {% raw %} before and {% endraw +%} after it"
    )


def test_an_expression_in_a_statement_is_looked_at_after_the_others() -> None:
    text = TEXT + "{% if x is defined %}\nreplicas = {{ x }}\n{% endif %}\n"
    assert failures(text) == []
    (line,) = failures(text + "cpu_cost = {{ y }}\n")
    assert line.startswith("conf.ini:9 [algopkg.Echo] cpu_cost: 'y' is undefined")
    (line,) = failures(TEXT + "{% for a in 'b' %}\nenv.A = {{ a }}{{ c }}\n{% endfor %}\n")
    assert line.startswith("conf.ini:7 [algopkg.Echo] env.A: 'c' is undefined")


def test_a_statement_that_fails_is_reported_without_a_place() -> None:
    (line,) = failures(TEXT + "{% for a in b %}{% endfor %}")
    assert line.startswith("conf.ini: 'b' is undefined")


def test_what_needs_no_inventory_is_checked_and_the_rest_is_listed() -> None:
    text = (
        TEXT.replace("Echo\nroute", "{{ cls }}\nroute") + "replicas = {{ n | default(3) }}\ncpu_cost = {{ c | int }}\n"
    )
    text += "[algopkg.Other]\nbackend = B\nroute = b\nwarmup = {{ w | to_json }}\nreplicas = {{ 2 * 2 }}\n"
    partial = template.check(text, "conf.ini")
    (other,) = partial.conf.sections
    assert (other.name, other.replicas, partial.problems) == ("Other", 4, [])
    assert partial.unknown == [
        "conf.ini:4 [algopkg.Echo] backend",
        "conf.ini:7 [algopkg.Echo] cpu_cost",
        "conf.ini:11 [algopkg.Other] warmup",
    ]
    assert template.read_if_known(text, "conf.ini") is None


def test_a_problem_that_an_unknown_value_may_solve_is_none() -> None:
    text = TEXT + "max_replicas = {{ most }}\nmin_replicas = 2\nmodle = a\n"
    (found,) = template.check(text, "conf.ini").problems
    assert str(found).startswith("conf.ini:8 [algopkg.Echo] modle: unknown key")


def test_statements_are_rendered_with_what_is_known() -> None:
    body = "[algopkg.{{ name }}]\nbackend = C\nroute = {{ name }}\n"
    text = f"[MODEL SERVE]\n{{% for name in ['A', 'B'] %}}\n{body}{{% endfor %}}\n"
    assert [section.name for section in template.check(text, "conf.ini").conf.sections] == ["A", "B"]
    partial = template.check(text.replace("['A', 'B']", "groups['workers']"), "conf.ini")
    assert (partial.conf.sections, partial.unknown) == ((), ["conf.ini: statements with groups"])
    with pytest.raises(UserError, match="cannot be rendered without the inventory"):
        template.check(text.replace("['A', 'B']", "lookup('env', 'A')"), "conf.ini")


def test_a_template_that_is_known_is_read_as_it_will_be_rendered() -> None:
    line = 'user_config = {% raw %}{"prompt": "{{ question }}"}{% endraw +%}\n'
    conf = template.read_if_known(TEXT + line, "conf.ini")
    assert conf is not None
    assert conf.sections[0].user_config == {"prompt": "{{ question }}"}
    with pytest.raises(UserError, match=r"conf\.ini:7 \[algopkg\.Echo\] replicas: 0 is out of range"):
        template.read_if_known(TEXT + line + "replicas = 0\n", "conf.ini")

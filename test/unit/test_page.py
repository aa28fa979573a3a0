"""The page's script and style sheet: what they change of Swagger UI, which a record of its calls stands for."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from modelserve.catalog.app import PAGE

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="the page's script runs in Node.js, which is not installed")

SWAGGER_UI = """
globalThis.File ??= class extends Blob {}; // Node.js 18
let options;
const SwaggerUIBundle = (given) => { options = given; };
const calls = [];
const system = {
  React: { createElement: (type, props, ...children) => ({ type, props, children }) },
  oas3Actions: { setRequestBodyValue: (change) => calls.push(change) },
};
const plugins = () => options.plugins.map((plugin) => plugin());
const element = (name, props) =>
  plugins().find((plugin) => plugin.wrapComponents?.[name]).wrapComponents[name]("Original", system)(props);
const errors = { size: 1, toJS: () => ["Required field is not provided"] };
"""


def evaluated(expression: str) -> Any:
    """The value of an expression where the page's script has run."""
    source = f"{SWAGGER_UI}\n{(PAGE / 'page.js').read_text()}\nconsole.log(JSON.stringify({expression}));"
    assert NODE is not None
    done = subprocess.run([NODE, "-"], check=False, input=source, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize(
    ("content", "content_type", "displayed", "name"),
    [
        ('"{}\\n{}"', "application/x-ndjson", "text/plain", None),
        ('"{}"', "application/json", "application/json", None),
        ('"data: 1"', "text/event-stream", "text/event-stream", None),
        ('new Blob(["x"])', "image/png", "image/png", None),
        ('new Blob(["x"])', "audio/x-wav", "application/octet-stream", "b.wav"),
        ('new Blob(["x"])', "video/mp4", "application/octet-stream", "b.mp4"),
        ('new Blob(["x"])', "application/pdf", "application/octet-stream", "b.pdf"),
        ('new Blob(["x"])', "application/octet-stream", "application/octet-stream", "b"),
    ],
)
def test_an_answer_is_displayed_as_what_swagger_ui_can_display(
    content: str, content_type: str, displayed: str, name: str | None
) -> None:
    props = f'{{ content: {content}, contentType: "{content_type}", url: "http://h/a/b?c=d", headers: {{ etag: 1 }} }}'
    shown = evaluated(f'element("responseBody", {props})')
    assert shown["type"] == "Original"
    assert shown["props"]["contentType"] == displayed
    disposition = {} if name is None else {"content-disposition": f'attachment; filename="{name}"'}
    assert shown["props"]["headers"] == {"etag": 1, **disposition}


@needs_node
def test_another_media_type_begins_with_an_empty_body() -> None:
    change = '{ value: "application/json", pathMethod: ["/a", "post"] }'
    wrapped = "plugins().find((plugin) => plugin.statePlugins).statePlugins.oas3.wrapActions.setRequestContentType"
    action, calls = evaluated(f'[{wrapped}((given) => ({{ type: "set", ...given }}), system)({change}), calls]')
    assert action == {"type": "set", "value": "application/json", "pathMethod": ["/a", "post"]}
    assert calls == [{"pathMethod": ["/a", "post"]}]  # JSON has no undefined value


@needs_node
@pytest.mark.parametrize(
    ("value", "required", "marked"),
    [
        ("undefined", True, True),
        ('"string"', True, True),
        ("new File([], 'a')", True, False),
        ("undefined", False, False),
    ],
)
def test_a_required_file_that_is_not_chosen_is_marked(value: str, required: bool, marked: bool) -> None:
    props = f"{{ value: {value}, required: {json.dumps(required)}, errors, schema: {{}}, fn }}"
    found = evaluated(f"((fn) => element('JsonSchema_string', {props}))({{ isFileUploadIntended: () => true }})")
    assert found["props"]["errors"] == (["Required field is not provided"] if marked else [])


@needs_node
def test_a_text_s_errors_are_left_alone() -> None:
    fn = "{ isFileUploadIntended: () => false }"
    assert evaluated(f"element('JsonSchema_string', {{ errors, schema: {{}}, fn: {fn} }}).props.errors === errors")


@needs_node
@pytest.mark.parametrize(
    ("value", "errors", "marked"),
    [("undefined", "errors", True), ("new File([], 'a')", "errors", False), ("undefined", "undefined", False)],
)
def test_a_required_body_that_is_missing_is_said(value: str, errors: str, marked: bool) -> None:
    found = evaluated(f"element('RequestBody', {{ requestBodyValue: {value}, requestBodyErrors: {errors} }})")
    body, note = found["children"]
    assert body["type"] == "Original"
    assert (note is not None) == marked
    if marked:
        assert (note["props"]["role"], note["children"]) == ("alert", ["The body is required."])


@needs_node
def test_a_get_with_a_body_goes_as_post() -> None:
    sent = evaluated('options.requestInterceptor({ method: "GET", body: "{}", headers: {} })')
    assert (sent["method"], sent["headers"]) == ("POST", {"X-HTTP-Method-Override": "GET"})
    assert evaluated('options.requestInterceptor({ method: "GET", headers: {} })') == {"method": "GET", "headers": {}}


def test_the_dialog_for_the_key_is_not_hidden_with_the_servers() -> None:
    rules = (PAGE / "page.css").read_text()
    # As specific as Swagger UI's own rule, which shows it.
    assert ".swagger-ui .scheme-container .schemes .schemes-server-container" in rules
    assert ".scheme-container:not(:has(.auth-wrapper))" in rules
    assert ".scheme-container {" not in rules


def test_an_open_operation_fits_a_phone() -> None:
    _, narrow = (PAGE / "page.css").read_text().split("@media (max-width: 480px)")
    assert "flex-wrap: wrap" in narrow
    assert "overflow-x: auto" in narrow

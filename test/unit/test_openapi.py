"""The OpenAPI document: valid, and it says of each algorithm what its schemas say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import modelserve
import pytest
from modelserve.catalog.openapi import UNTYPED, Algorithm, document, hoisted
from modelserve.config.routes import ALGORITHM_HEADER
from modelserve.replica.types import Types
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, Field
from starlette.responses import Response


class Face(BaseModel):
    box: tuple[int, int, int, int]
    score: float = Field(ge=0, le=1)


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Ask(BaseModel):
    image: str
    pet: Cat | Dog = Field(discriminator="kind")
    known: list[Face] = []


@dataclass
class Other:
    face: Face


def faces(param: Ask) -> list[Face]:
    raise NotImplementedError


def trees(param: Tree) -> Tree:
    raise NotImplementedError


def others(param: Other) -> int:
    raise NotImplementedError


def algorithm(name: str, method: Any = None, **more: Any) -> Algorithm:
    described = {"input": UNTYPED, "output": {}} if method is None else Types(method).document()
    media_types = {key: tuple(described.pop(key)) for key in ("consumes", "produces") if key in described}
    return Algorithm(**{"name": name, "methods": ("GET",), **described, **media_types, **more})


def made(routes: Mapping[str, Sequence[Algorithm]], **weights: float) -> dict[str, Any]:
    """The document, after a way through JSON, and checked."""
    weighted = {route: [(one, weights.get(one.name, 1)) for one in answering] for route, answering in routes.items()}
    found: dict[str, Any] = json.loads(json.dumps(document(weighted, "1.0")))
    OpenAPIV31SpecValidator(found).validate()
    for reference in references(found):
        resolved: Any = found
        for part in reference.removeprefix("#/").split("/"):
            resolved = resolved[part.replace("~1", "/").replace("~0", "~")]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        yield from (found for item in value.values() for found in references(item))
    elif isinstance(value, list):
        yield from (found for item in value for found in references(item))


def fits(found: dict[str, Any], component: str, value: Any) -> bool:
    """Whether a value fits a component of the document."""
    schema = {"$ref": f"#/components/schemas/{component}", "components": found["components"]}
    return bool(OAS31Validator(schema).is_valid(value))


def test_nothing_served_is_a_valid_document() -> None:
    assert made({})["paths"] == {}


def test_each_method_of_each_route_is_an_operation() -> None:
    found = made({"face": [algorithm("Faces", methods=("GET", "POST"))], "a/b": [algorithm("Deep", methods=("PUT",))]})
    operations = {path: set(item) for path, item in found["paths"].items()}
    assert operations == {
        "/face": {"get", "post"},
        "/face/schema": {"get"},
        "/a/b": {"put"},
        "/a/b/schema": {"get"},
    }
    assert found["paths"]["/a/b"]["put"]["tags"] == ["Deep"]


def test_operations_of_routes_that_look_alike_have_ids_of_their_own() -> None:
    found = made({route: [algorithm(f"A{at}")] for at, route in enumerate(("a/b", "a_b", "a-b", "a/b/schema"))})
    ids = [operation["operationId"] for item in found["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids)) == 7  # the route a/b/schema stands for itself


def test_schemas_of_two_algorithms_do_not_clash() -> None:
    found = made({"face": [algorithm("Faces", faces)], "other": [algorithm("Others", others)]})
    face = {"box": [1, 2, 3, 4], "score": 0.5}
    assert fits(found, "Faces.input", {"image": "x", "pet": {"kind": "dog"}, "known": [face]})
    assert not fits(found, "Faces.input", {"image": "x", "pet": {"kind": "dog"}, "known": [{**face, "score": 2}]})
    assert not fits(found, "Faces.input", {"image": "x", "pet": {"kind": "bird"}})
    assert fits(found, "Faces.output", [face])
    assert not fits(found, "Faces.output", [{}])
    assert fits(found, "Others.input", {"face": face})
    assert not fits(found, "Others.input", {"face": 1})


def test_a_recursive_schema_leads_into_itself() -> None:
    found = made({"tree": [algorithm("Trees", trees)]})
    assert fits(found, "Trees.input", {"name": "a", "children": [{"name": "b", "children": []}]})
    assert not fits(found, "Trees.input", {"name": "a", "children": [{"children": []}]})


def test_a_discriminator_s_mapping_leads_to_the_components() -> None:
    mapping = made({"face": [algorithm("Faces", faces)]})["components"]["schemas"]["Faces.input"]["properties"]["pet"]
    assert mapping["discriminator"]["mapping"]["cat"] == "#/components/schemas/Faces.input.Cat"


def test_data_that_looks_like_a_schema_is_left_alone() -> None:
    fields = {"default": {"default": {"$ref": "#/$defs/Y"}}, "$ref": {"type": "integer"}}
    (schema,) = hoisted({"properties": fields, "examples": [{"$ref": "#/$defs/X"}]}, "Odd.input").values()
    assert schema["examples"] == [{"$ref": "#/$defs/X"}]
    assert schema["properties"]["default"]["default"] == {"$ref": "#/$defs/Y"}
    assert schema["properties"]["$ref"]["type"] == "integer"


def test_definitions_whose_names_no_component_can_have_stay_apart() -> None:
    schema = {"$defs": {"Box[int]": {"type": "integer"}, "Box<int>": {"type": "string"}}, "type": "object"}
    schema["properties"] = {"a": {"$ref": "#/$defs/Box[int]"}, "b": {"$ref": "#/$defs/Box<int>"}}
    found = made({"r": [Algorithm("A", ("GET",), schema, {})]})
    assert fits(found, "A.input", {"a": 1, "b": "x"})
    assert not fits(found, "A.input", {"a": "x", "b": 1})


def test_answers_that_an_algorithm_cannot_give_are_left_out() -> None:
    plain = made({"r": [algorithm("A")]})["paths"]["/r"]["get"]["responses"]
    assert set(plain) == {"200", "400", "404", "405", "413", "415", "500", "502", "503", "504"}
    bound = made({"r": [algorithm("A", others, queue=3)]})["paths"]["/r"]["get"]["responses"]
    assert set(bound) - set(plain) == {"422", "429"}


def test_where_a_key_is_needed_the_document_says_so() -> None:
    routes = {"r": [(algorithm("A", others, queue=3), 1.0)]}
    found, without = document(routes, "1", keys=True), document(routes, "1")
    OpenAPIV31SpecValidator(found).validate()
    (name,) = found["security"][0]
    assert found["components"]["securitySchemes"][name]["name"] == "X-API-Key"
    assert "security" not in without
    for operation in (found["paths"]["/r"]["get"], found["paths"]["/r/schema"]["get"]):
        assert {"401", "403", "429"} <= set(operation["responses"])
    many = found["components"]["responses"]["TooManyRequests"]
    assert set(many["content"]) == {"application/json"}
    assert "Retry-After" in many["headers"]


def test_the_example_is_the_body_s() -> None:
    found = made({"r": [algorithm("A", example={"text": "x"})]})
    assert found["paths"]["/r"]["get"]["requestBody"]["content"]["application/json"]["example"] == {"text": "x"}


class Picture(BaseModel):
    image: modelserve.Upload
    mask: bytes = b""
    top: int = 3
    kind: Literal["cat", "dog"] | None = None
    tags: list[str] = []
    face: Face | None = None


def picture(param: Picture) -> bytes:
    raise NotImplementedError


def raw(param: modelserve.Upload) -> Iterator[modelserve.Event]:
    raise NotImplementedError


def page(param: dict[str, Any]) -> Response:
    raise NotImplementedError


def test_a_file_is_picked_in_a_form() -> None:
    found = made({"r": [algorithm("A", picture, methods=("POST",), example={"image": "eA=="})]})
    operation = found["paths"]["/r"]["post"]
    content = operation["requestBody"]["content"]
    assert list(content) == ["multipart/form-data", "application/json"]
    assert operation["requestBody"]["required"] is True
    assert "example" not in content["multipart/form-data"]
    assert content["application/json"]["example"] == {"image": "eA=="}
    schema = found["components"]["schemas"]["A.input"]["properties"]
    assert schema["image"]["format"] == schema["mask"]["format"] == "binary"
    answered = operation["responses"]["200"]["content"]
    assert answered == {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    assert "x-modelserve" not in json.dumps(found)


def test_an_example_that_names_files_is_left_out() -> None:
    found = made({"r": [algorithm("A", picture, example={"image": {"file": "cat.png"}})]})
    assert "example" not in found["paths"]["/r"]["get"]["requestBody"]["content"]["application/json"]
    kept = made({"r": [algorithm("A", others, example={"face": {"file": "x"}})]})
    assert "example" in kept["paths"]["/r"]["get"]["requestBody"]["content"]["application/json"]


def test_an_inference_that_takes_a_body_has_it_as_a_file() -> None:
    operation = made({"r": [algorithm("A", raw, example={"file": "cat.png"})]})["paths"]["/r"]["get"]
    content = operation["requestBody"]["content"]
    assert list(content) == ["application/octet-stream", "multipart/form-data"]
    assert operation["requestBody"]["required"] is True
    assert not any("example" in described for described in content.values())
    assert content["multipart/form-data"]["schema"]["properties"]["file"]["format"] == "binary"
    assert list(operation["responses"]["200"]["content"]) == ["text/event-stream"]
    assert "stream" in operation["responses"]["200"]["description"]
    assert "only when the stream has ended" in operation["responses"]["200"]["description"]
    assert operation["summary"] == "Ask A (stream)"


def frames(param: dict[str, Any]) -> Iterator[bytes]:
    raise NotImplementedError


def test_a_stream_of_bytes_is_marked_and_a_file_is_not() -> None:
    found = made({"a": [algorithm("A", frames)], "b": [algorithm("B", picture)]})
    stream, file = found["paths"]["/a"]["get"], found["paths"]["/b"]["get"]
    assert (stream["summary"], file["summary"]) == ("Ask A (stream)", "Ask B")
    assert "as a stream" in stream["responses"]["200"]["description"]
    assert "(application/octet-stream)" in stream["responses"]["200"]["description"]
    assert file["responses"]["200"]["description"] == "Answered"
    assert stream["responses"]["200"]["content"] == file["responses"]["200"]["content"]
    shared = made({"r": [algorithm("A", frames), algorithm("B", picture)]})["paths"]["/r"]["get"]
    assert shared["summary"] == "Ask A (stream) or B"


class Album(BaseModel):
    files: list[modelserve.Upload]
    masks: list[bytes] | None = None
    names: list[str] = []


def album(param: Album) -> int:
    raise NotImplementedError


def test_files_of_a_list_are_empty_until_they_are_chosen() -> None:
    fields = made({"r": [algorithm("A", album)]})["components"]["schemas"]["A.input"]["properties"]
    file = {"type": "string", "format": "binary", "examples": [""]}
    assert fields["files"]["items"] == fields["masks"]["anyOf"][0]["items"] == file
    assert fields["names"]["items"] == {"type": "string"}


def test_a_get_has_the_fields_that_a_text_can_express_as_its_query() -> None:
    found = made({"r": [algorithm("A", picture, methods=("GET", "POST"))]})
    get, post = found["paths"]["/r"]["get"], found["paths"]["/r"]["post"]
    assert [parameter["name"] for parameter in get["parameters"]] == ["top", "kind", "tags"]
    assert all(parameter["in"] == "query" and not parameter["required"] for parameter in get["parameters"])
    assert get["requestBody"]["required"] is False
    assert all("empty the one below first" in parameter["description"] for parameter in get["parameters"])
    assert not any("example" in parameter for parameter in get["parameters"])
    assert post["parameters"] == []
    assert made({"r": [algorithm("A")]})["paths"]["/r"]["get"]["parameters"] == []


class Words(BaseModel):
    text: str = Field(description="The text to search.")
    tags: list[str] = []
    top: int | None = 3


class Phrase(BaseModel):
    text: str
    size: int


class Texts(BaseModel):
    texts: list[str]
    few: list[str] = Field(min_length=2)
    more: list[str] = []


class Open(BaseModel, extra="allow"):
    text: str


def words(param: Words) -> int:
    raise NotImplementedError


def phrase(param: Phrase) -> int:
    raise NotImplementedError


def texts(param: Texts) -> int:
    raise NotImplementedError


def extended(param: Open) -> int:
    raise NotImplementedError


def test_a_get_whose_query_expresses_all_has_no_body() -> None:
    example = {"text": "hi", "tags": ["a", "b"], "top": None, "other": 1}
    found = made({"r": [algorithm("A", words, methods=("GET", "POST"), example=example)]})
    get, post = found["paths"]["/r"]["get"], found["paths"]["/r"]["post"]
    assert "requestBody" not in get
    assert "requestBody" in post
    text, tags, top = get["parameters"]
    assert (text["required"], text["example"], text["description"]) == (True, "hi", "The text to search.")
    assert (tags["required"], tags["example"]) == (False, ["a", "b"])
    assert not {"example", "description"} & set(top)


def test_a_shared_get_has_no_body_where_the_query_expresses_the_fields_of_all() -> None:
    get = made({"r": [algorithm("A", words), algorithm("B", phrase)]})["paths"]["/r"]["get"]
    assert "requestBody" not in get
    required = {parameter["name"]: parameter["required"] for parameter in get["parameters"][1:]}
    assert required == {"text": True, "tags": False, "top": False, "size": False}
    assert "requestBody" in made({"r": [algorithm("A", words), algorithm("B", faces)]})["paths"]["/r"]["get"]


def test_a_required_list_of_a_query_is_not_empty() -> None:
    parameters = made({"r": [algorithm("A", texts)]})["paths"]["/r"]["get"]["parameters"]
    assert [parameter["schema"].get("minItems") for parameter in parameters] == [1, None, None]


@pytest.mark.parametrize("method", [None, extended, faces, trees, raw])
def test_a_get_whose_query_does_not_express_all_has_a_body(method: Any) -> None:
    assert "requestBody" in made({"r": [algorithm("A", method)]})["paths"]["/r"]["get"]


def test_any_response_has_no_type() -> None:
    operation = made({"r": [algorithm("A", page)]})["paths"]["/r"]["get"]
    assert operation["responses"]["200"]["content"] == {"*/*": {"schema": {}}}


def test_algorithms_of_several_types_share_a_route() -> None:
    found = made({"r": [algorithm("A", picture, methods=("POST",)), algorithm("B", faces, methods=("POST",))]})
    operation = found["paths"]["/r"]["post"]
    content = operation["requestBody"]["content"]
    assert content["multipart/form-data"]["schema"] == {"$ref": "#/components/schemas/A.input"}
    assert len(content["application/json"]["schema"]["anyOf"]) == 2
    assert set(operation["responses"]["200"]["content"]) == {"application/octet-stream", "application/json"}


def test_failures_have_a_code() -> None:
    assert "code" in made({})["components"]["schemas"]["Failure"]["properties"]


def test_a_shared_route_lists_who_answers_and_how_to_pick_one() -> None:
    old = algorithm("Faces", faces, methods=("GET", "POST"), example={"image": "x"})
    new = algorithm("FaceV2", others, methods=("POST",), example={"face": 1})
    found = made({"face": [old, new]}, Faces=90, FaceV2=10)
    get, post = found["paths"]["/face"]["get"], found["paths"]["/face"]["post"]
    assert get["tags"] == ["Faces"]
    assert post["tags"] == ["Faces", "FaceV2"]
    assert "Faces 90%, FaceV2 10%" in post["description"]
    (parameter,) = post["parameters"]
    assert (parameter["name"], parameter["schema"]["enum"]) == (ALGORITHM_HEADER, ["Faces", "FaceV2"])
    content = post["requestBody"]["content"]["application/json"]
    assert len(content["schema"]["anyOf"]) == 2
    assert set(content["examples"]) == {"Faces", "FaceV2"}
    assert found["paths"]["/face/schema"]["get"]["parameters"] == post["parameters"]


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "https://example.com/schema.json"}])
def test_references_that_lead_to_no_definition(schema: dict[str, Any]) -> None:
    found = hoisted({"type": "object", "properties": {"x": schema}}, "A.input")["A.input"]["properties"]["x"]["$ref"]
    assert found == ("#/components/schemas/A.input" if schema["$ref"] == "#" else schema["$ref"])

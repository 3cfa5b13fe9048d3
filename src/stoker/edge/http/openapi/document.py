"""The document: the API's description in OpenAPI 3.1, made from the operations and from the types of bodies.

Pure. Does not know what is said of an operation, nor how the document is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from stoker.edge.errors import status_of
from stoker.edge.http import answers
from stoker.edge.http.answers import FunctionFailure, Refusal
from stoker.edge.http.bodies import with_limits
from stoker.edge.http.invoke import INVOCATION_TYPES
from stoker.edge.http.openapi.codes import ALWAYS, AUTHENTICATED, EXAMPLES, FAILURES
from stoker.edge.http.openapi.operation import Answer, Operation, Parameter, Shape
from stoker.edge.http.openapi.parameters import PATH
from stoker.edge.http.scopes import TABLE
from stoker.model.limits import Limits

REF = "#/components/schemas/"
JSON = "application/json"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "ETag": {"description": "To be sent as If-Match.", "schema": {"type": "string"}},
    "X-Invocation-Id": {
        "description": "The invocation's id.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "X-Content-Type-Options": {"schema": {"const": "nosniff"}},
    "WWW-Authenticate": {"schema": {"const": "Bearer"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
}
_CLARIFIED: Mapping[str, Mapping[str, Any]] = {
    # What is checked behind the types, as a refusal there says more.
    "Envelope": {
        "required": ["payload", "invocation_type"],
        "properties": {
            "payload": {"description": "A string that holds JSON, or any other JSON value."},
            "invocation_type": {"type": "string", "enum": list(INVOCATION_TYPES)},
        },
    },
    "ComputeAssetCreate": {
        "anyOf": [
            {"required": [name], "properties": {name: {"type": "string"}}}
            for name in ("collection_topic", "namespace")
        ]
    },
}
_INTRODUCTION = """\
Functions in JavaScript and Python, run in sandboxes that are kept warm.

JSON in, JSON out. A success is wrapped in `body`; a list is `results` with `results_total`, and with \
`next_cursor` where `limit` left more. A refusal has `error` for a person and `code` for a program, with \
`field` and `hint` where there are any. Checked in this order: 401, 404 (also what is another account's), \
403, 400."""


def make_document(
    operations: Iterable[Operation], tags: Mapping[str, str], limits: Limits, version: str
) -> Any:
    """Return the document as plain JSON values. `tags` are in their order, with a description each."""
    operations = tuple(operations)
    components = _components(operations, limits)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        item = paths.setdefault(path_of(operation), {})
        item[operation.verb.lower()] = _operation(operation, limits)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stoker",
            "version": version,
            "summary": "Serverless functions on one machine of your own.",
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in tags.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
    }


def path_of(operation: Operation) -> str:
    """Return an operation's path with the names of its parameters."""
    return _PLACEHOLDER.sub(lambda match: f"{{{PATH[match[1]].name}}}", operation.path)


def codes_of(operation: Operation) -> tuple[str, ...]:
    """Return every code that an operation may be refused with, or its call may end with."""
    needs = TABLE.get((operation.verb, operation.path))
    codes = [*ALWAYS, *operation.codes]
    if needs is not None:
        codes += AUTHENTICATED
        if needs.scope is not None:
            codes.append("auth.forbidden")
    return tuple(dict.fromkeys(codes))


# -- operations ----------------------------------------------------------------------------------------


def _operation(operation: Operation, limits: Limits) -> dict[str, Any]:
    needs = TABLE.get((operation.verb, operation.path))
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    words = [operation.description] if operation.description else []
    if needs is not None and needs.scope is not None:
        described["x-scope"] = needs.scope
        words.append(f"Needs the scope `{needs.scope}`.")
    described["description"] = " ".join(words)
    parameters = [*_path_parameters(operation), *operation.parameters]
    if parameters:
        described["parameters"] = [_parameter(parameter, limits) for parameter in parameters]
    if operation.body is not None:
        described["requestBody"] = _request(operation)
    described["responses"] = _responses(operation)
    described["security"] = [] if needs is None else [{"bearer": []}, {"apiKey": []}]
    return described


def _path_parameters(operation: Operation) -> Iterable[Parameter]:
    for match in _PLACEHOLDER.finditer(operation.path):
        parameter = PATH[match[1]]
        example = operation.path_examples.get(parameter.name, parameter.example)
        yield Parameter(
            parameter.name, "path", parameter.description, parameter.schema, example, required=True
        )


def _parameter(parameter: Parameter, limits: Limits) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.required,
        "schema": with_limits(parameter.schema, limits),
    }
    if parameter.schema.get("type") == "array":
        described |= {"style": "form", "explode": False}
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


def _request(operation: Operation) -> dict[str, Any]:
    examples = {name: {"value": value} for name, value in operation.body_examples.items()}
    if isinstance(operation.body, str):
        content = {operation.body: {"schema": {}, "examples": examples}}
    else:
        content = {JSON: {"schema": _ref(operation.body), "examples": examples}}
    return {"required": operation.body_required, "content": content}


# -- answers -------------------------------------------------------------------------------------------


def _responses(operation: Operation) -> dict[str, Any]:
    answer = operation.answer
    done: dict[str, Any] = {"description": answer.description, "content": _content(answer)}
    headers = {name: {**_HEADERS[name], "required": True} for name in answer.headers}
    if headers:
        done["headers"] = headers
    if operation.links:
        done["links"] = {
            link.operation: {"operationId": link.operation, "parameters": dict(link.parameters)}
            for link in operation.links
        }
    responses = {str(status): done for status in (answer.status, *answer.also)}
    by_status: dict[int, list[str]] = {}
    for code in codes_of(operation):
        by_status.setdefault(status_of(code), []).append(code)
    for status in sorted(by_status):
        responses[str(status)] = _failed(operation, status, by_status[status])
    if operation.unready is not None:
        value = {"status": "not ready", "error": "the server is stopping", "code": "no_capacity"}
        examples = {"no_capacity": {"value": value}}
        responses["503"] = {
            "description": "Functions cannot run just now.",
            "content": {JSON: {"schema": _ref(operation.unready), "examples": examples}},
        }
    return responses


def _content(answer: Answer) -> dict[str, Any]:
    if answer.kind is None:
        return {answer.media: {"schema": {"type": "string"}, "example": answer.example}}
    inner = _schema_of(answer.kind)
    schema, value = inner, answer.example
    if answer.shape is Shape.LIST:
        results = {
            "results": {"type": "array", "items": inner},
            "results_total": {"type": "integer", "minimum": 0},
            "next_cursor": {"type": "string"},
        }
        schema = _wrapped(_closed(results, ["results", "results_total"]))
        value = {"body": {"results": value, "results_total": len(value)}}
    elif answer.shape is Shape.BODY:
        schema, value = _wrapped(inner), {"body": value}
    return {answer.media: {"schema": schema, "example": value}}


def _failed(operation: Operation, status: int, codes: list[str]) -> dict[str, Any]:
    ran = [code for code in codes if code in FAILURES]
    refused = [code for code in codes if code not in ran or code == "platform.lost"]
    kinds = [
        {"allOf": [_ref(kind)], "properties": {"code": {"enum": among}}}
        for kind, among in ((Refusal, refused), (FunctionFailure, ran))
        if among
    ]
    response: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}.",
        "content": {
            JSON: {
                "schema": kinds[0] if len(kinds) == 1 else {"anyOf": kinds},
                "examples": {code: {"value": EXAMPLES[code]} for code in codes},
            }
        },
    }
    names = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}.get(status, ())
    if names:
        response["headers"] = {name: {**_HEADERS[name], "required": True} for name in names}
    return response


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    return _closed({"body": schema}, ["body"])


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


# -- schemas -------------------------------------------------------------------------------------------


def _ref(kind: Any) -> dict[str, Any]:
    return {"$ref": REF + kind.__name__}


def _schema_of(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REF + "{name}")
    return schema


def _components(operations: tuple[Operation, ...], limits: Limits) -> dict[str, Any]:
    answered = [operation.answer.kind for operation in operations if operation.answer.kind is not None]
    answered += [operation.unready for operation in operations if operation.unready is not None]
    asked = [operation.body for operation in operations if isinstance(operation.body, type)]
    _, open_schemas = msgspec.json.schema_components(asked, ref_template=REF + "{name}")
    _, closed = msgspec.json.schema_components(
        [*answered, Refusal, FunctionFailure], ref_template=REF + "{name}"
    )
    for name, schema in closed.items():
        schema["additionalProperties"] = False
        said = getattr(answers, name).__annotations__  # in the order in which they are answered
        schema["properties"] = {key: schema["properties"][key] for key in said}
    for name, more in _CLARIFIED.items():
        open_schemas[name].update(more)
    schemas = {**open_schemas, **closed}
    return {name: with_limits(schemas[name], limits) for name in sorted(schemas)}

"""What is said of the routes of functions and their code."""

from __future__ import annotations

import base64
from types import MappingProxyType

from stoker.edge.http import bodies
from stoker.edge.http.answers import (
    FunctionAnswer,
    FunctionSummary,
    StoredObject,
    Success,
    VersionAnswer,
)
from stoker.edge.http.openapi.codes import STORING
from stoker.edge.http.openapi.operation import Answer, Link, Operation, Shape
from stoker.edge.http.openapi.parameters import IF_MATCH, PAGED, STRICT
from stoker.edge.http.scopes import COLLECTION, COMPUTE_ASSET, FUNCTION

TAG = "Functions"
CODE_TAG = "Code and versions"


def _base64(source: str) -> str:
    return base64.b64encode(source.encode()).decode()


def _item(source: str) -> dict[str, object]:
    return {"asset_name": "index.js", "asset_type": "file", "asset_value": _base64(source), "link": False}


GREETER = "exports.handler = async ({ name }) => ({ message: `Hello, ${name}!` });\n"
WARMER_GREETER = "exports.handler = async ({ name }) => ({ message: `Good to see you, ${name}!` });\n"
_PYTHON = "def handler(event, context):\n    return sum(event)\n"
_SCHEMA = {
    "input": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    "output": {"type": "object", "properties": {"message": {"type": "string"}}},
}
_MONITOR = {"ttl": 604800000, "store_payload": True}
_ASSET = {
    "collection_topic": "my-namespace",
    "service": "1335831723",
    "runtime": "nodejs",
    "handler": "index.handler",
    "timeout": 30000,
    "read_only_fs": True,
}
_SUMMARY = {
    "description": "Greets",
    "name": "greet",
    "runtime": "nodejs",
    "subject": "ms.compute.my-namespace.function.1335831723",
    "type": "created",
    "modified": 1714378974,
}
_FUNCTION = {**_SUMMARY, "compute_asset": _ASSET, "monitor_config": _MONITOR, "schema": _SCHEMA}
_VERSION = {**_ASSET, "version": 1, "modified": 1714378974, "assets": [_item(GREETER)]}

CREATE_EXAMPLES = MappingProxyType(
    {
        "greeter": {
            "name": "greet",
            "description": "Greets",
            "compute_asset": {
                "collection_topic": "my-namespace",
                "handler": "index.handler",
                "assets": [_item(GREETER)],
                "timeout": 30000,
                "read_only_fs": True,
            },
            "monitor_config": _MONITOR,
            "schema": _SCHEMA,
        },
        "python": {
            "name": "add",
            "compute_asset": {
                "collection_topic": "my-namespace",
                "handler": "main.handler",
                "runtime": "python",
                "assets": [{"asset_name": "main.py", "asset_value": _base64(_PYTHON)}],
                "env_vars": ["STAGE=test"],
                "network": {"egress": [], "tunnels": ["db.internal:5432"]},
            },
            "monitor_config": {},
            "size": "small",
            "retry": {"attempts": 5, "backoff_ms": 500},
            "concurrency": {"max_instances": 4},
        },
    }
)
_OF_A_FUNCTION = MappingProxyType(
    {
        "collection_topic": "$response.body#/body/compute_asset/collection_topic",
        "function_topic": "$response.body#/body/compute_asset/service",
    }
)
_CREATED_LINKS = tuple(
    Link(name, _OF_A_FUNCTION)
    for name in (
        *("getFunction", "patchFunction", "invokeFunction", "getComputeAsset", "patchComputeAsset"),
        *("listVersions", "rollBack", "listDeadLetters", "deleteFunction"),
    )
)

OPERATIONS = (
    Operation(
        "POST",
        "/compute/functions",
        "createFunction",
        TAG,
        "Create a function",
        Answer(
            FunctionAnswer, Shape.BODY, 201, description="The function as it is stored.", example=_FUNCTION
        ),
        description="Its collection is created as well if it is not there. It can be called at once.",
        parameters=(STRICT,),
        body=bodies.FunctionCreate,
        body_examples=CREATE_EXAMPLES,
        codes=("name_taken", "quota.functions", "quota.code_bytes", *STORING),
        links=_CREATED_LINKS,
    ),
    Operation(
        "GET",
        "/compute/functions",
        "listFunctions",
        TAG,
        "List all functions",
        Answer(FunctionSummary, Shape.LIST, description="Those created first first.", example=[_SUMMARY]),
        parameters=PAGED,
    ),
    Operation(
        "GET",
        COLLECTION + "/functions",
        "listFunctionsOfCollection",
        TAG,
        "List the functions of a collection",
        Answer(FunctionSummary, Shape.LIST, description="Those created first first.", example=[_SUMMARY]),
        parameters=PAGED,
        codes=("not_found",),
    ),
    Operation(
        "GET",
        FUNCTION,
        "getFunction",
        TAG,
        "Show a function",
        Answer(
            FunctionAnswer,
            Shape.BODY,
            description="With its code inline.",
            example={**_FUNCTION, "compute_asset": {**_ASSET, "assets": [_item(GREETER)]}, "version": 1},
            headers=("ETag",),
        ),
        codes=("not_found", "no_capacity"),
    ),
    Operation(
        "PATCH",
        FUNCTION,
        "patchFunction",
        TAG,
        "Change a function's settings",
        Answer(Success, example={"message": "success"}),
        description="What is given replaces that key whole; what is absent stays. Makes no new version.",
        parameters=(STRICT, IF_MATCH),
        body=bodies.FunctionPatch,
        body_examples={"settings": {"description": "Greets people", "size": "small"}},
        codes=("not_found", "name_taken", "version_conflict", *STORING),
    ),
    Operation(
        "DELETE",
        FUNCTION,
        "deleteFunction",
        TAG,
        "Delete a function",
        Answer(Success, example={"message": "success"}),
        description="Its records can be read until their `ttl` is over.",
        parameters=(IF_MATCH,),
        codes=("not_found", "version_conflict", *STORING),
    ),
    Operation(
        "GET",
        COMPUTE_ASSET,
        "getComputeAsset",
        CODE_TAG,
        "Show the code that runs",
        Answer(VersionAnswer, Shape.BODY, description="Inline.", example=_VERSION, headers=("ETag",)),
        codes=("not_found", "no_capacity"),
    ),
    Operation(
        "PATCH",
        COMPUTE_ASSET,
        "patchComputeAsset",
        CODE_TAG,
        "Change the code",
        Answer(Success, example={"message": "success"}),
        description="Makes a new version: the next call runs it, one in flight finishes on the old one. "
        "What is given replaces that key whole.",
        parameters=(STRICT, IF_MATCH),
        body=bodies.ComputeAssetPatch,
        body_examples={"code": {"assets": [_item(WARMER_GREETER)]}},
        codes=("not_found", "version_conflict", "quota.code_bytes", *STORING),
    ),
    Operation(
        "GET",
        COMPUTE_ASSET + "/history",
        "listVersions",
        CODE_TAG,
        "List all versions of the code",
        Answer(
            VersionAnswer,
            Shape.LIST,
            description="The oldest first, each with its code inline.",
            example=[_VERSION],
            headers=("ETag",),
        ),
        parameters=PAGED,
        codes=("not_found",),
    ),
    Operation(
        "POST",
        COMPUTE_ASSET + "/rollback",
        "rollBack",
        CODE_TAG,
        "Go back to an earlier version",
        Answer(
            VersionAnswer,
            Shape.BODY,
            description="A new version that equals the old one.",
            example={**_VERSION, "version": 3},
            headers=("ETag",),
        ),
        parameters=(STRICT, IF_MATCH),
        body=bodies.Rollback,
        body_examples={"first": {"version": 1}},
        codes=("not_found", "version_conflict", *STORING),
    ),
    Operation(
        "PUT",
        "/compute/assets/{key}",
        "putObject",
        CODE_TAG,
        "Store an object",
        Answer(
            StoredObject,
            Shape.BODY,
            201,
            description="It is stored.",
            example={"key": "libraries.zip", "size_bytes": 11},
        ),
        description="Raw bytes for assets with `link: true`, so that large code needs no base64. What was "
        "stored under the key before is replaced; functions that were made from it keep what they have.",
        body="application/octet-stream",
        body_required=False,
        body_examples={"bytes": "hello world"},
        codes=("quota.code_bytes", *STORING),
    ),
)

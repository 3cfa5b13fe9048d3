"""What is said of the routes of collections."""

from __future__ import annotations

from types import MappingProxyType

from stoker.edge.http import bodies
from stoker.edge.http.answers import CollectionAnswer, Success
from stoker.edge.http.openapi.codes import STORING
from stoker.edge.http.openapi.operation import Answer, Link, Operation, Shape
from stoker.edge.http.openapi.parameters import IF_MATCH, PAGED, STRICT
from stoker.edge.http.scopes import COLLECTION

TAG = "Collections"
PATH = "/compute/collections"

_COLLECTION = {
    "collection_type": "function",
    "description": "Everything that greets",
    "name": "greeters",
    "subject": "ms.compute.1446062034.collection",
    "type": "created",
    "modified": 1714378974,
}
_SUCCESS = Answer(Success, example={"message": "success"})
_GREETERS = MappingProxyType({"collection_topic": "greeters"})
_BY_NAME = MappingProxyType({"collection_topic": "$response.body#/body/subject"})

OPERATIONS = (
    Operation(
        "GET",
        PATH,
        "listCollections",
        TAG,
        "List all collections",
        Answer(CollectionAnswer, Shape.LIST, description="Those created first first.", example=[_COLLECTION]),
        parameters=PAGED,
    ),
    Operation(
        "POST",
        PATH,
        "createCollection",
        TAG,
        "Create a collection",
        Answer(CollectionAnswer, Shape.BODY, 201, description="The collection.", example=_COLLECTION),
        description="Its topic is the hash of its name. A function that names a collection makes it as well.",
        parameters=(STRICT,),
        body=bodies.CollectionCreate,
        body_examples={"greeters": {"name": "greeters", "description": "Everything that greets"}},
        codes=("name_taken", *STORING),
        links=tuple(
            Link(name, _BY_NAME)
            for name in (
                *("getCollection", "patchCollection", "deleteCollection"),
                *("listFunctionsOfCollection", "listContainers"),
            )
        ),
    ),
    Operation(
        "GET",
        COLLECTION,
        "getCollection",
        TAG,
        "Show a collection",
        Answer(
            CollectionAnswer,
            Shape.BODY,
            description="The collection.",
            example=_COLLECTION,
            headers=("ETag",),
        ),
        path_examples=_GREETERS,
        codes=("not_found",),
    ),
    Operation(
        "PATCH",
        COLLECTION,
        "patchCollection",
        TAG,
        "Rename or describe a collection",
        _SUCCESS,
        description="What is absent stays. The topic stays with it.",
        parameters=(STRICT, IF_MATCH),
        path_examples=_GREETERS,
        body=bodies.CollectionPatch,
        body_examples={"description": {"description": "All that greets"}},
        codes=("not_found", "name_taken", "version_conflict", *STORING),
    ),
    Operation(
        "DELETE",
        COLLECTION,
        "deleteCollection",
        TAG,
        "Delete an empty collection",
        _SUCCESS,
        parameters=(IF_MATCH,),
        path_examples=_GREETERS,
        codes=("not_found", "not_empty", "version_conflict", *STORING),
    ),
    Operation(
        "GET",
        COLLECTION + "/containers",
        "listContainers",
        TAG,
        "List the containers of a collection",
        Answer(CollectionAnswer, Shape.LIST, description="None, as nothing makes any yet.", example=[]),
        parameters=PAGED,
        path_examples=_GREETERS,
        codes=("not_found",),
    ),
)

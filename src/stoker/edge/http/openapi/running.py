"""What is said of the routes that show what runs: runtimes, services, machines, and the server itself."""

from __future__ import annotations

from typing import Any

from stoker.edge.http.answers import (
    Health,
    MachineAnswer,
    NotReady,
    Ready,
    RuntimeAnswer,
    ServiceAnswer,
)
from stoker.edge.http.backup import MEDIA
from stoker.edge.http.machines import STATUSES
from stoker.edge.http.openapi.operation import Answer, Operation, Parameter, Shape
from stoker.edge.http.openapi.parameters import PAGED

TAG = "What runs"
SERVER_TAG = "Server"


def _filter(name: str, description: str) -> Parameter:
    return Parameter(name, "query", description, {"type": "string"})


_SERVICE = {
    "id": "5d41402abc4b2a76b9719d",
    "name": "greet",
    "version": "1.0.0",
    "description": "Greets",
    "endpoints": [
        {
            "name": "invoke",
            "subject": "ms.compute.my-namespace.function.1335831723",
            "queue_group": "stoker",
            "metadata": {"account": "default", "collection": "my-namespace", "function": "greet"},
        }
    ],
    "metadata": {"account": "default", "collection": "my-namespace", "function": "greet"},
    "type": "io.nats.micro.v1.info_response",
    "stats": {"requests": 2, "errors": 0, "average_processing_ms": 1.25},
}
_MACHINE = {
    "id": "c7f3a1e09b2d",
    "pid": 4242,
    "status": "running",
    "runtime": "nodejs",
    "runtime_version": "24.1.0",
    "memory": "512.00 MB",
    "rootfs": "nodejs-24",
    "created": "2026-01-01T00:00:00.000Z",
    "annotations": {"account": "default", "namespace": "my-namespace", "service.handler": "index.handler"},
    "owner": "default",
    "stats": {"CgroupStats": {"pids": {"current": 11, "limit": 75}}, "Interfaces": []},
    "type": "Compute Function",
}

OPERATIONS = (
    Operation(
        "GET",
        "/compute/runtimes",
        "listRuntimes",
        TAG,
        "List the runtimes",
        Answer(
            RuntimeAnswer,
            Shape.LIST,
            description="What really runs here.",
            example=[{"name": "nodejs", "version": "24.1.0", "description": "Node.js"}],
        ),
        parameters=PAGED,
    ),
    Operation(
        "GET",
        "/compute/services",
        "listServices",
        TAG,
        "List functions as services of NATS",
        Answer(
            ServiceAnswer, Shape.LIST, description="As service discovery over NATS tells.", example=[_SERVICE]
        ),
        parameters=PAGED,
    ),
    Operation(
        "GET",
        "/compute/machines",
        "listMachines",
        TAG,
        "List the sandboxes that serve functions",
        Answer(MachineAnswer, Shape.LIST, description="Those that fit all filters.", example=[_MACHINE]),
        parameters=(
            _filter("machine", "A machine's id."),
            _filter("namespace", "A collection's topic or name."),
            _filter("runtime", "A runtime's name."),
            _filter("service", "A function's service, subject or name."),
            Parameter(
                "status",
                "query",
                "Of this status; `*` for all.",
                {"type": "string", "enum": list(STATUSES)},
                "running",
            ),
            *PAGED,
        ),
    ),
    Operation(
        "GET",
        "/healthz",
        "getHealth",
        SERVER_TAG,
        "Whether the server lives",
        Answer(Health, description="It does.", example={"status": "ok"}),
    ),
    Operation(
        "GET",
        "/readyz",
        "getReadiness",
        SERVER_TAG,
        "Whether functions can run",
        Answer(
            Ready,
            description="They can.",
            example={"status": "ready", "isolation": "crun", "instances": {"serving": 1}},
        ),
        codes=("no_capacity",),
        unready=NotReady,
    ),
    Operation(
        "GET",
        "/metrics",
        "getMetrics",
        SERVER_TAG,
        "Metrics of the whole server",
        Answer(
            description="As Prometheus reads them.",
            media="text/plain",
            example="# TYPE stoker_up gauge\nstoker_up 1\n",
        ),
    ),
    Operation(
        "GET",
        "/backup",
        "getBackup",
        SERVER_TAG,
        "A backup of the whole server",
        Answer(
            description="The file that `stoker restore` takes; cut short if something goes wrong on the way.",
            media=MEDIA,
            example="stoker backup 1\n",
        ),
        description="All that is stored, as it is at one moment; secrets are in it as they are, sealed.",
        codes=("no_capacity",),
    ),
    Operation(
        "GET",
        "/openapi.json",
        "getDescription",
        SERVER_TAG,
        "This description",
        Answer(dict[str, Any], description="OpenAPI 3.1.", example={"openapi": "3.1.0"}),
    ),
    Operation(
        "GET",
        "/docs",
        "getDocs",
        SERVER_TAG,
        "This description as a page",
        Answer(
            description="HTML that loads nothing from elsewhere.",
            media="text/html",
            example="<!doctype html>",
        ),
    ),
)

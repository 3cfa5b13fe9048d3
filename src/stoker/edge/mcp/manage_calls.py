"""What the tools do that call functions and look into what happened: a request or two to the routes each.

Decides nothing that a route decides. Source: the operating contract, *The other doors*.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from stoker.edge.http import scopes
from stoker.edge.mcp import arguments as args
from stoker.edge.mcp.asking import Answer
from stoker.edge.mcp.request import Asking, body_of, given, invocation_path, place_of
from stoker.edge.mcp.tool import ToolAnswer, refusal, told, value_of
from stoker.invocation.acceptance import ASYNC, REQUEST_RESPONSE
from stoker.model.errors import InvalidRequest


async def invoke(ask: Asking, wanted: args.Invoke, plain: dict[str, Any]) -> ToolAnswer:
    """Call a function and wait for its end."""
    return _outcome(await ask.invoke(wanted, plain.get("payload"), REQUEST_RESPONSE))


async def invoke_async(ask: Asking, wanted: args.Invoke, plain: dict[str, Any]) -> ToolAnswer:
    """Have a call queued."""
    return _outcome(await ask.invoke(wanted, plain.get("payload"), ASYNC))


async def replay(ask: Asking, wanted: args.Replay, _: dict[str, Any]) -> ToolAnswer:
    """Run an invocation once more."""
    path = f"{invocation_path(wanted.invocation_id)}/replay"
    return _outcome(await ask("POST", path, body={"version": wanted.version}))


async def redrive(ask: Asking, wanted: args.OneLetter, _: dict[str, Any]) -> ToolAnswer:
    """Queue a dead letter once more."""
    letters = scopes.DEAD_LETTERS.format_map(place_of(wanted.function))
    return _outcome(await ask("POST", f"{letters}/{quote(wanted.invocation_id, '')}/redrive"))


async def cancel(ask: Asking, wanted: args.OneInvocation, _: dict[str, Any]) -> ToolAnswer:
    """End an invocation."""
    answer = await ask("POST", f"{invocation_path(wanted.invocation_id)}/cancel")
    return told({"cancelled": wanted.invocation_id}) if answer.ok else refusal(answer)


def _outcome(answer: Answer) -> ToolAnswer:
    """Return the result of a call beside its id; of one that only was accepted the id alone."""
    if not answer.ok:
        return refusal(answer)
    result = value_of(answer.json()["body"])
    accepted = {"invocation_id": answer.invocation_id}
    body = accepted if result == accepted else {**accepted, "result": result}
    return told(body, answer.invocation_id)


async def get_invocation(ask: Asking, wanted: args.GetInvocation, _: dict[str, Any]) -> ToolAnswer:
    """Show a record, once it has ended if that is asked for."""
    return body_of(await ask("GET", invocation_path(wanted.invocation_id), query={"wait": wanted.wait_ms}))


async def list_invocations(ask: Asking, wanted: args.Invocations, plain: dict[str, Any]) -> ToolAnswer:
    """Show records, the latest first."""
    names = ("function", "status", "since", "until", "cursor")
    return body_of(
        await ask("GET", "/compute/invocations", query={**given(plain, names), "limit": wanted.limit})
    )


async def read_logs(ask: Asking, wanted: args.Logs, _: dict[str, Any]) -> ToolAnswer:
    """Show what an invocation printed, or the latest ones of a function."""
    if wanted.invocation_id is not None:
        answer = await ask("GET", f"{invocation_path(wanted.invocation_id)}/log")
        if not answer.ok:
            return refusal(answer)
        text = answer.body.decode(errors="replace")
        return ToolAnswer(text, {"invocation_id": wanted.invocation_id, "log": text})
    if wanted.function is None:
        raise InvalidRequest("give invocation_id, or function for its latest ones", field="/invocation_id")
    query = {"function": wanted.function, "limit": wanted.limit}
    found = await ask("GET", "/compute/invocations", query=query)
    if not found.ok:
        return refusal(found)
    logs = []
    for record in found.json()["body"]["results"]:
        answer = await ask("GET", f"{invocation_path(record['invocation_id'])}/log")
        if answer.ok:  # else it has expired meanwhile
            shown = {key: record[key] for key in ("invocation_id", "created", "status")}
            logs.append({**shown, "log": answer.body.decode(errors="replace")})
    text = "\n".join(
        f"-- {log['created']} {log['status']} {log['invocation_id']}\n{log['log']}" for log in logs
    )
    return ToolAnswer(text or "nothing was called yet", {"logs": logs})


async def list_dead_letters(ask: Asking, wanted: args.Pages, _: dict[str, Any]) -> ToolAnswer:
    """Show what failed to the end."""
    path = scopes.DEAD_LETTERS.format_map(place_of(wanted.function))
    return body_of(await ask("GET", path, query={"limit": wanted.limit, "cursor": wanted.cursor}))

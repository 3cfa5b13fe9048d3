"""The toolbox: which tools a token has, and what a call of one does.

Does not know the protocol, nor where a request came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stoker.catalog.fold import Fold
from stoker.catalog.principal import Principal
from stoker.edge.errors import ErrorAnswers
from stoker.edge.http import scopes
from stoker.edge.mcp import arguments as args
from stoker.edge.mcp.asking import Answer, Asker, Credential
from stoker.edge.mcp.functions import UNREADABLE, FunctionTool, call_function, function_tools
from stoker.edge.mcp.management import Managing, allows, is_for, managing_tools
from stoker.edge.mcp.request import Asking
from stoker.edge.mcp.tool import Tool, ToolAnswer, refusal, refused
from stoker.model.errors import StokerError
from stoker.model.limits import Limits


class UnknownTool(Exception):
    """No tool of that name is there for the token."""


@dataclass(frozen=True, slots=True)
class Menu:
    """The tools of one token, as of one state of the catalog."""

    managing: dict[str, Managing]
    functions: dict[str, FunctionTool]
    tools: list[Tool]
    """All of them, in a stable order: ours, then functions, those created first first."""


class Toolbox:
    """The tools of all tokens."""

    def __init__(self, fold: Fold, asker: Asker, errors: ErrorAnswers, limits: Limits) -> None:
        self._fold = fold
        self._asker = asker
        self._errors = errors
        self._managing = managing_tools(limits)

    @property
    def state(self) -> int:
        """A number that is another one once a menu may be."""
        return self._fold.sequence

    def menu(self, principal: Principal) -> Menu:
        """Return the tools that a token has."""
        managing = {name: one for name, one in self._managing.items() if is_for(one, principal)}
        functions: dict[str, FunctionTool] = {}
        if allows(principal, scopes.TABLE["POST", scopes.INVOKE]):
            account = principal.account
            functions = function_tools(
                (self._fold.collections[account, entry.function.collection_topic].name, entry.function)
                for entry in self._fold.entries(account, principal.collection)
            )
        tools = [one.tool for one in managing.values()] + [one.tool for one in functions.values()]
        return Menu(managing, functions, tools)

    async def call(
        self, menu: Menu, credential: Credential, name: str, arguments: dict[str, Any]
    ) -> ToolAnswer:
        """Return what a tool answers, refusals and failures too. Raises UnknownTool.

        If the caller is cancelled, so is the call of a function that has begun.
        """
        function, managing = menu.functions.get(name), menu.managing.get(name)
        try:
            if function is not None:
                return await call_function(self._asker, credential, function, arguments)
            if managing is None:
                raise UnknownTool(f"there is no tool {name[:100]!r}")
            typed, plain = args.read(arguments, managing.kind)
            return await managing.action(Asking(self._asker, credential), typed, plain)
        except RecursionError:
            return refused(UNREADABLE)
        except StokerError as error:
            found = self._errors.answer(error)
            return refusal(Answer(found.status, found.body))

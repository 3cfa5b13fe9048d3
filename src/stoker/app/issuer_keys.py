"""The issuer's keys: read at the start, and again once in a while or when a key comes up that is not known.

Does not know tokens. A source that is away leaves the keys as they were.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx

from stoker.app.settings import JwtSettings, WrongSetting
from stoker.catalog.issuer import Issuer, UnknownKeys
from stoker.telemetry.logging import get_logger

AGAIN_S = 300.0
UNKNOWN_KEY_S = 15.0
"""A key that is not known is looked for no more often: who makes one up must not have us ask all the time."""
LOOK_S = 1.0
BYTES_MAX = 1024 * 1024
WAIT_S = 10.0


class IssuerKeys:
    """One for a server. `first` before it serves, then `run` until it is cancelled."""

    def __init__(self, settings: JwtSettings, issuer: Issuer) -> None:
        self._source = settings.jwks
        self._issuer = issuer
        self._log = get_logger("stoker.app")

    async def first(self) -> None:
        """Learn the keys; a URL that is away is asked again later, a file must be there.

        Raises WrongSetting for a file that cannot be read or holds no key to use.
        """
        try:
            await self._learn()
        except (OSError, ValueError, UnknownKeys) as error:
            raise WrongSetting(f"--jwt-jwks {self._source}: {error}") from None
        except httpx.HTTPError as error:
            self._away(error)

    async def run(self) -> None:
        """Learn them again and again."""
        loop = asyncio.get_running_loop()
        learnt = loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            waited_s = loop.time() - learnt
            if waited_s < (UNKNOWN_KEY_S if self._issuer.unknown_key else AGAIN_S):
                continue
            learnt = loop.time()
            self._issuer.unknown_key = False
            try:
                await self._learn()
            except (OSError, ValueError, UnknownKeys, httpx.HTTPError) as error:
                self._away(error)

    async def _learn(self) -> None:
        if not self._source.startswith(("https://", "http://")):
            text = await asyncio.to_thread(Path(self._source).read_bytes)
        else:
            async with httpx.AsyncClient(timeout=WAIT_S, trust_env=False) as client:
                answer = await client.get(self._source)
                answer.raise_for_status()
                text = answer.content
        if len(text) > BYTES_MAX:
            raise UnknownKeys("it is too large")
        count = self._issuer.learn(json.loads(text))
        self._log.info("issuer_keys", count=count)

    def _away(self, error: Exception) -> None:
        self._log.warning("issuer_keys_away", reason=str(error) or type(error).__name__)

"""The connection to NATS: requests that are answered, or end in an error within seconds.

Owns the client, its reconnecting for ever and the repetition of a request whose answer was lost. Does not
know JetStream, nor what the messages mean; whose an answer is, `answers` knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from stoker.backbone.answers import Answers
from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.server_config import Credentials
from stoker.model.errors import TooLarge, Unavailable

_log = structlog.get_logger("stoker.backbone.connection")

AWAY_MS_MAX = 3_000
"""How long a request waits for a backbone that is away; the embedded server is back after 70-170 ms
(findings), a cluster elects a new leader in 4-8 s, which callers learn by Retry-After."""
ATTEMPT_MS_MAX = 1_000
"""One attempt: a cluster that changes its leader forgets what was in flight, on a connection that stays."""
CANCEL_AGAIN_S = 0.2
RECONNECT_WAIT_MS = 20
CONNECT_MS_MAX = 2_000
SERVED_WAITING_MAX = 16_384
SERVED_BYTES_MAX = 64 * 1024 * 1024
PENDING_BYTES_MAX = 64 * 1024 * 1024
"""Above all that is ever in flight: at the limit the client awaits a flush that swallows cancellation."""

INBOX_PREFIX = "_INBOX_stoker"
"""All our inboxes are below it, and nobody else's: trusted clients may listen to `_INBOX.>`."""
NAME = "stoker"


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent."""

    subject: str
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Connection:
    """A client that reconnects for ever. Open it once, close it once.

    `servers` are NATS URLS. `server` is the embedded one if it is ours: then it tells why it is away. By
    `name` an operator knows it.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        credentials: Credentials | None = None,
        server: EmbeddedServer | None = None,
        name: str = NAME,
        away_ms_max: int = AWAY_MS_MAX,
        attempt_ms_max: int = ATTEMPT_MS_MAX,
    ) -> None:
        self._servers = list(servers)
        self._credentials = credentials
        self.server = server
        self._name = name
        self._away_ms_max = away_ms_max
        self._attempt_ms_max = attempt_ms_max
        self._client = Client()
        self._answers = Answers()
        self._connected = asyncio.Event()
        self._away_since: float | None = None
        self._redial: asyncio.Task[None] | None = None
        self._closing = False
        self._on_reconnect: list[Callable[[], None]] = []
        self._served: list[Callable[[Client], Awaitable[object]]] = []

    @classmethod
    def to_embedded(
        cls, server: EmbeddedServer, *, name: str = NAME, away_ms_max: int = AWAY_MS_MAX
    ) -> Connection:
        """Return a connection to our own, started server."""
        return cls(
            [server.url], credentials=server.credentials, server=server, name=name, away_ms_max=away_ms_max
        )

    async def __aenter__(self) -> Connection:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Tell whether a server is at the other end just now."""
        return self._client.is_connected

    @property
    def unhealthy_reason(self) -> str | None:
        """Why nothing is at the other end just now, for people; None if something is."""
        if self._client.is_connected:
            return None
        return f"the backbone is away: {self.server.reason if self.server else 'no NATS server answers'}"

    @property
    def cluster_size(self) -> int:
        """How many servers are known, the one connected to among them; at least 1."""
        return max(1, len({server.netloc.rpartition("@")[2] for server in self._client.servers}))

    @property
    def message_bytes_max(self) -> int:
        """The largest message, with its headers, that the server takes."""
        return self._client.max_payload

    async def open(self, *, wait_ms: int = 10_000) -> None:
        """Return once connected. Raises Unavailable after `wait_ms`."""
        dialing = asyncio.create_task(self._dial(), name="dial")
        try:
            await asyncio.wait([dialing], timeout=wait_ms / 1000)
        finally:
            in_time = dialing.done()
            await _ended(dialing)
        if in_time:
            dialing.result()
        else:
            await self.close()
            raise Unavailable(
                f"no NATS server answers at {', '.join(_without_password(url) for url in self._servers)}"
            )

    async def close(self) -> None:
        """End the connection; requests that wait are told Unavailable. Harmless when repeated."""
        self._closing = True
        redial, self._redial = self._redial, None
        if redial is not None:
            await _ended(redial)
        if not self._client.is_closed:
            await self._client.close()
        self._answers.lose_all()
        self._connected.set()  # who waits looks again, and finds it closing

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after every reconnect, on the event loop."""
        self._on_reconnect.append(callback)

    def deadline(self) -> float:
        """Return the loop's time at which a request made now is given up."""
        return asyncio.get_running_loop().time() + self._away_ms_max / 1000

    async def request(self, message: Message) -> Msg:
        """Return the answer. The message may arrive more than once: give it an id, or make that harmless.

        Waits at most `away_ms_max`; raises Unavailable, or TooLarge if the server takes no such message.
        """
        deadline = self.deadline()
        while True:
            answer = await self.attempt([message], deadline=deadline)
            if answer is not None:
                return answer

    async def attempt(self, messages: Sequence[Message], *, deadline: float) -> Msg | None:
        """Send all in this order, without a pause, and return the answer to the last.

        None if it was lost: try again. The answer to the first is returned in its place if it is not empty:
        that is how an atomic batch is refused early. Raises Unavailable once `deadline` has passed.
        """
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            raise self.unavailable()
        await self._until_connected(deadline)
        wait_s = min(self._attempt_ms_max / 1000, max(0.0, deadline - loop.time()))
        expected = self._answers.expect(len(messages), wait_s=wait_s)
        try:
            for index, message in enumerate(messages):
                await self._client.publish(
                    message.subject,
                    message.data,
                    reply=expected.replies.get(index, ""),
                    headers=dict(message.headers) or None,
                )
            received = await expected.answer()
        except nats.errors.MaxPayloadError:
            largest = max(len(message.data) for message in messages)
            raise TooLarge(f"a message of {largest} bytes is past the limit of NATS") from None
        except (nats.errors.Error, OSError) as error:
            _log.debug("nats_send_failed", error=repr(error))
            received = None
        finally:
            self._answers.forget(expected)
        if received is None and self._client.is_connected:
            await asyncio.sleep(RECONNECT_WAIT_MS / 1000)  # nobody serves the subject yet
        return received

    def unavailable(self) -> Unavailable:
        """Return the error for a caller that has waited long enough."""
        return Unavailable("the store does not answer just now", retry_after_s=1)

    async def subscribe(self, subject: str, on_message: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Have every message of `subject` given to `on_message`; for inboxes that live shortly."""
        return await self._client.subscribe(
            subject,
            cb=on_message,
            pending_msgs_limit=0,  # none: a message dropped here would be a gap
            pending_bytes_limit=0,
        )

    async def serve(
        self, subject: str, on_message: Callable[[Msg], Awaitable[None]], *, queue: str = ""
    ) -> None:
        """Have every message of `subject` given to `on_message` for the connection's whole life.

        Of all that serve it under one `queue` one gets it. What waits past `SERVED_*_MAX` is dropped.
        """

        def subscribe(client: Client) -> Awaitable[object]:
            return client.subscribe(
                subject,
                queue=queue,
                cb=on_message,
                pending_msgs_limit=SERVED_WAITING_MAX,
                pending_bytes_limit=SERVED_BYTES_MAX,
            )

        self._served.append(subscribe)  # a client that is replaced is told again
        await subscribe(self._client)

    async def tell(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Send a message; lost if the server goes before it has it. What is answered goes to `reply`."""
        await self._client.publish(
            subject, data, reply=reply, headers=None if headers is None else dict(headers)
        )

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        return self._client.new_inbox()

    async def _dial(self) -> None:
        self._client = Client()
        own = self._credentials
        await self._client.connect(
            self._servers,
            name=self._name,
            user=None if own is None else own.user,
            password=None if own is None else own.password,
            inbox_prefix=INBOX_PREFIX,
            connect_timeout=CONNECT_MS_MAX / 1000,  # type: ignore[arg-type]
            reconnect_time_wait=RECONNECT_WAIT_MS / 1000,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=1,  # a stopped server, or a reader of ours that died, is noticed after 3 s
            max_outstanding_pings=2,
            pending_size=PENDING_BYTES_MAX,
            flush_timeout=1,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
        )
        inbox = self._answers.inbox = self._client.new_inbox() + "."
        await self._client.subscribe(
            inbox + "*", cb=self._answers.take, pending_msgs_limit=0, pending_bytes_limit=0
        )
        for subscribe in self._served:
            await subscribe(self._client)
        self._away_since = None
        self._connected.set()

    async def _until_connected(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while not self._client.is_connected or self._closing:
            if self._closing:
                raise self.unavailable()
            if self._away_since is None:
                self._away_since = loop.time()
            self._connected.clear()
            try:
                # Away for long already: told at once, so that callers do not pile up behind it.
                async with asyncio.timeout_at(min(deadline, self._away_since + self._away_ms_max / 1000)):
                    await self._connected.wait()
            except TimeoutError:
                raise self.unavailable() from None

    async def _on_disconnected(self) -> None:
        # The client lets requests in flight wait out their time; ours are tried again at once.
        self._connected.clear()
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
        self._answers.lose_all()

    async def _on_reconnected(self) -> None:
        self._away_since = None
        self._connected.set()
        for callback in self._on_reconnect:
            callback()

    async def _on_closed(self) -> None:
        # The client closes for good on errors such as an authentication that timed out under load.
        if self._closing:
            return
        await self._on_disconnected()
        if self._redial is None or self._redial.done():
            self._redial = asyncio.create_task(self._dial_again(), name="nats-redial")

    async def _dial_again(self) -> None:
        await asyncio.sleep(RECONNECT_WAIT_MS / 1000)
        await self._dial()
        await self._on_reconnected()

    async def _on_error(self, error: Exception) -> None:
        if not self._closing:
            _log.debug("nats_client", error=f"{type(error).__name__}: {error}")


async def _ended(task: asyncio.Task[None]) -> None:
    """Return when a task has ended, which is cancelled for that: once more, if need be.

    The client of NATS takes a cancellation that comes at a bad moment for the end of one attempt, and begins
    the next.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)


def _without_password(url: str) -> str:
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]

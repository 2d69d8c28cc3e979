"""No body larger than it may be is ever held in memory."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Answers 413 as soon as a body is, or says it is, above `most` bytes."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "0")
        if told.isdigit() and int(told) > self._most:
            await self._refuse(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise _TooLargeError
            return message

        async def instead(message: Message) -> None:
            # Whoever reads the body may take the error for his own and answer something else.
            if taken <= self._most:
                await send(message)
            elif message["type"] == "http.response.start":
                await self._refuse(scope, receive, send)

        await self._app(scope, counted, instead)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        words = f"the body is larger than {self._most} bytes"
        error = {"message": words, "type": "invalid_request_error", "code": 413}
        await JSONResponse({"error": error}, 413, {"Connection": "close"})(scope, receive, send)


class _TooLargeError(Exception):
    """Ends the reading of a body."""

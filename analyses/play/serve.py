"""Serve the page: on this machine alone, saying nothing to anybody else.

unlatch play smollm2-135m-instruct --vector runs/brief/vectors/verbosity.safetensors --dictionary bundled
"""

import importlib.util
import ipaddress
import os
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from analyses.play.model_thread import ModelThread
from analyses.play.session import Session
from analyses.play.sources import load_sources
from analyses.progress import console
from hooks import load
from hooks.errors import InputError

QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SHARE": "False",
    "GRADIO_ALLOWED_PATHS": "",
}
"""The settings of Gradio's that the environment could turn against its user."""

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "frame-ancestors 'none'",
        "form-action 'none'",
        "base-uri 'self'",
        "connect-src 'self'",
    )
)
"""What the browser may fetch for the page: nothing that is not from here."""

Message = MutableMapping[str, Any]
Asgi = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class _Sealed:
    """ASGI middleware that sends :data:`POLICY` with every answer."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = {
                    b"content-security-policy": POLICY.encode(),
                    b"referrer-policy": b"no-referrer",
                    b"x-content-type-options": b"nosniff",
                }
                message["headers"] = [*message["headers"], *extra.items()]
            await send(message)

        await self._app(scope, receive, sealed)


def serve(
    model: str,
    vectors: Sequence[str] = (),
    dictionaries: Sequence[str] = (),
    *,
    any_model: bool = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str | None = None,
) -> None:
    """Load the model and what is to be added, and serve the page until interrupted.

    Args:
        vectors: Steering vectors' files.
        dictionaries: Folders of sparse dictionaries, or ``bundled``.
        any_model: Take those that were made for another model too.
        host: Whoever can reach it can use the page: there is no password.
        port: None takes the first that is free from 7860 on.

    Raises:
        InputError: without Gradio, or for an address that cannot be had.
        ModelNotFoundError, ModelRefusedError, VectorError: as :func:`hooks.load` and the files' readers.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("The page is made with Gradio, which is not installed: pip install -e '.[play]'.")
    os.environ.update(QUIET)
    if not loopback(host):
        console.print(
            f"warning: on {host} anyone who can reach this machine can use the model and see the page; "
            "there is no password and no encryption. Leave --host out to keep it to yourself.",
            style="bold red",
        )
    thread = ModelThread()
    lm = thread.call(load, model, device=device)
    sources = thread.call(load_sources, lm, vectors, dictionaries, any_model=any_model)
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from analyses.play import page  # imports gradio

    app = page.Page(Session(lm, sources, thread), device=device).app
    app.queue(max_size=page.MAX_WAITING, api_open=False, default_concurrency_limit=1)
    named = ["127.0.0.1", "localhost", host] if loopback(host) else ["*"]
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            allowed_paths=[],
            max_file_size=1,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            strict_cors=True,
            app_kwargs={
                "middleware": [Middleware(_Sealed), Middleware(TrustedHostMiddleware, allowed_hosts=named)]
            },
            theme=page.theme(),
            css=page.style(),
            js=page.script(),
        )
    except OSError as error:
        raise InputError(f"Cannot serve on {host}, port {port or 'any of 7860 to 7959'}: {error}") from None
    console.print(f"The page is at {address}  (Ctrl-C ends it)", markup=False)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        app.close(verbose=False)


def loopback(host: str) -> bool:
    """Whether only this machine can reach what is served on ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

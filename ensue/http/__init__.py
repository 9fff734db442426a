"""Commands and queries over HTTP: `asgi(shop)` is an ASGI application, served alone or mounted in Starlette or FastAPI.

    from ensue.http import asgi

    web = asgi(shop)  # uvicorn shop:web

`routes.py` says what is reached where, `messages.py` how a message is read, `headers.py` what is asked beside it, `problems.py`
how a no is told, `serving.py` puts it together, `openapi.py` describes it. Needs `pip install 'ensue[http]'`.
"""

from __future__ import annotations

from ensue.errors import WiringError

try:
    from ensue.http.serving import Authenticate, TenantOf, asgi
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "starlette":
        raise
    raise WiringError("ensue.http needs Starlette, which is not installed: pip install 'ensue[http]'") from error

__all__ = ["Authenticate", "TenantOf", "asgi"]

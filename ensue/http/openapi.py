"""What the routes are, as OpenAPI 3.1, made from the types."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ensue.domain.command import CommandDefinition
from ensue.errors import Refusal
from ensue.http import headers
from ensue.http.problems import MEDIA_TYPE, REFUSED, refusal_type
from ensue.http.routes import Route
from ensue.http.streams import EVENT_STREAM, JSON_LINES

__all__ = ["described"]

Schema = dict[str, Any]
VERSION = "1"
"""The description's own, which OpenAPI demands. What an application says of its versions it says elsewhere."""
_UNIONS = (typing.Union, types.UnionType)
_TEMPLATE = "#/components/schemas/{name}"
_SAID = {
    400: "The message or a header is not valid, or the position belongs to another log",
    401: "Who asks is not known",
    409: "Others decided at the same time; nothing was stored",
    413: "The body is too large",
    415: "The body is no JSON by its type",
    422: "Refused, or an idempotency key that was used for something else",
    503: "Not available now; nothing was stored",
    504: "The position was not reached in time",
}


def described(name: str, routes: Sequence[Route], *, authenticated: bool) -> Schema:
    """The document."""
    components = _Components(routes)
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": name, "version": VERSION},
        "paths": {route.path: _path(route, components, authenticated=authenticated) for route in routes},
        "components": {
            "schemas": {components.problem["$ref"].rpartition("/")[2]: _problem(), **components.found},
            "responses": {str(status): _problem_answer(said, components.problem) for status, said in _SAID.items()},
            "headers": {
                headers.POSITION: {
                    "description": f"Where what was stored is. Given as {headers.AFTER}, an answer has seen it.",
                    "schema": {"type": "string"},
                },
                headers.REPLAYED: {
                    "description": "This is the first answer of the idempotency key; nothing was stored now.",
                    "schema": {"const": "true"},
                },
            },
        },
    }
    if authenticated:
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
    return document


def _path(route: Route, components: _Components, *, authenticated: bool) -> Schema:
    body = {"required": True, "content": _content(components.of(route.message))}
    said = inspect.cleandoc(vars(route.message).get("__doc__") or "")
    about: Schema = {"summary": route.message.__name__, **({"description": said} if said else {})}
    command = isinstance(route.definition, CommandDefinition)
    answers = _answers(route, components, authenticated=authenticated)
    parameters = [_header(headers.AFTER, "Answer only when this position is seen."), _timeout()]
    name = route.message.__name__
    if command:
        key = _header(headers.KEY, "The same for each repetition of this command: it then has the same answer.")
        return {
            "post": {
                **about,
                "operationId": name,
                "parameters": [key, *parameters],
                "requestBody": body,
                "responses": answers,
            }
        }
    return {
        "get": {
            **about,
            "operationId": name,
            "parameters": [*_parameters(route, components), *parameters],
            "responses": answers,
        },
        "post": {
            **about,
            "operationId": f"{name}ByPost",
            "parameters": parameters,
            "requestBody": body,
            "responses": answers,
        },
    }


def _answers(route: Route, components: _Components, *, authenticated: bool) -> Schema:
    command = isinstance(route.definition, CommandDefinition)
    granted: Schema = {"description": "The answer", "content": _granted(route, components.of(route.answer))}
    if command:
        granted["headers"] = {
            name: {"$ref": f"#/components/headers/{name}"} for name in (headers.POSITION, headers.REPLAYED)
        }
    answers: Schema = {"200": granted}
    for status in (400, 413, 415, 503, 504, *([409] if command else []), *([401] if authenticated else [])):
        answers[str(status)] = {"$ref": f"#/components/responses/{status}"}
    if route.refusals:
        schemas = [components.refusal(one) for one in route.refusals]
        said = f"Refused: {', '.join(one.__name__ for one in route.refusals)}"
        answers[str(REFUSED)] = _problem_answer(said, {"anyOf": [*schemas, components.problem]})
    elif command:
        answers[str(REFUSED)] = {"$ref": f"#/components/responses/{REFUSED}"}
    return dict(sorted(answers.items()))


def _granted(route: Route, schema: Schema) -> Schema:
    """By type of content: a streamed query is answered in lines, any other one can be watched."""
    if isinstance(route.definition, CommandDefinition):
        return _content(schema)
    return {JSON_LINES: {"schema": schema}} if route.definition.streams else _content(schema) | {EVENT_STREAM: {}}


def _parameters(route: Route, components: _Components) -> list[Schema]:
    """The fields of a query as parameters."""
    schema = components.fields(route.message)
    required = set(schema.get("required", ()))
    found: list[Schema] = []
    for name, field in schema["properties"].items():
        given = route.form.given[name]
        one: Schema = {"name": name, "in": "query", "required": name in required}
        if given == "json":
            one["content"] = {"application/json": {"schema": field}}
        else:
            one |= {"schema": field} | ({"style": "form", "explode": True} if given == "many" else {})
        found.append(one)
    return found


def _header(name: str, said: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": said, "schema": {"type": "string"}}


def _timeout() -> Schema:
    schema = {"type": "number", "minimum": 0, "maximum": headers.TIMEOUT_SECONDS_MAX}
    said = f"For how many seconds to wait for the position of {headers.AFTER}."
    return {"name": headers.TIMEOUT, "in": "header", "required": False, "description": said, "schema": schema}


def _content(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _problem_answer(said: str, schema: Schema) -> Schema:
    return {"description": said, "content": {MEDIA_TYPE: {"schema": schema}}}


def _problem() -> Schema:
    return {
        "title": "Problem",
        "type": "object",
        "description": "RFC 9457. `field` names what is not valid; `refusal` and `fields` are the typed no of the application.",
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "field": {"type": "string"},
            "header": {"type": "string"},
            "refusal": {"type": "string"},
            "fields": {"type": "object"},
        },
        "required": ["type", "title", "status"],
    }


class _Components:
    """Schemas by name, each type once; those of one name have the name of their module as well."""

    def __init__(self, routes: Sequence[Route]) -> None:
        wanted = [one for route in routes for one in (route.message, route.answer, *route.refusals)]
        leaves = [leaf for leaf in dict.fromkeys(leaf for one in wanted for leaf in _leaves(one)) if _has_schema(leaf)]
        schemas, named = msgspec.json.schema_components(leaves, ref_template=_TEMPLATE)
        self._by_type = dict(zip(leaves, schemas, strict=True))
        self.found: dict[str, Schema] = dict(named)
        self.problem = _reference("Problem" if "Problem" not in self.found else "urn.Problem")

    def of(self, type: Any) -> Schema:
        """The schema of a type, or where it is found. What no schema stands for may be anything."""
        origin, arguments = typing.get_origin(type), typing.get_args(type)
        if origin in _UNIONS:
            return {"anyOf": [self.of(one) for one in arguments]}
        if _is_many(origin, arguments):
            return {"type": "array", "items": self.of(arguments[0])}
        found: Schema = self._by_type.get(type, {})
        return found

    def fields(self, message: type[Any]) -> Schema:
        """The schema of a message itself."""
        return self.found[self.of(message)["$ref"].rpartition("/")[2]]

    def refusal(self, refusal: type[Refusal]) -> Schema:
        """The problem that this refusal is told as."""
        properties: Schema = {
            "type": {"const": refusal_type(refusal)},
            "refusal": {"const": refusal.__name__},
            "fields": self.of(refusal),
        }
        own = {"type": "object", "properties": properties, "required": ["refusal", "fields"]}
        return {"allOf": [self.problem, own]}


def _leaves(type: Any) -> Iterator[Any]:
    """What is asked for one by one: a union of events or views has no schema as a whole, because nothing tells them apart."""
    origin, arguments = typing.get_origin(type), typing.get_args(type)
    if origin in _UNIONS:
        for one in arguments:
            yield from _leaves(one)
    elif _is_many(origin, arguments):
        yield from _leaves(arguments[0])
    else:
        yield type


def _is_many(origin: Any, arguments: tuple[Any, ...]) -> bool:
    return origin in (list, set, frozenset) or (origin is tuple and arguments[1:] == (...,))


def _has_schema(type: Any) -> bool:
    try:
        msgspec.json.schema(type)
    except (TypeError, NameError):
        return False
    return True


def _reference(name: str) -> Schema:
    return {"$ref": _TEMPLATE.format(name=name)}

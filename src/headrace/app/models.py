"""Settings → every model by name: the local one, and routes with their rules and caches."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headrace import __version__
from headrace.app.paths import NO_MODEL, model_name, model_path
from headrace.config import Settings
from headrace.errors import ConfigError
from headrace.types import Caller, ChatRequest

if TYPE_CHECKING:
    from headrace.engine.chat import EngineChat
    from headrace.gateway.caching.shelf import Shelf
    from headrace.gateway.context import Fitted
    from headrace.gateway.control import Control
    from headrace.gateway.routing.explain import Explained
    from headrace.gateway.services import Served
    from headrace.providers.residency import Residency


def check(settings: Settings) -> list[str]:
    """What `serve` would refuse, without starting anything: the names of what it would serve.

    Raises:
        HeadraceError: What is wrong, by its setting.
    """
    from headrace.gateway import exporter, traces
    from headrace.observe import logs
    from headrace.providers.assemble import open_routes
    from headrace.testing import ScriptedBackend

    async def work() -> list[str]:
        logs.check(settings.logs)
        traces.rules(settings.traces)
        exporter.rules(settings.otlp, settings.providers)
        own = [] if settings.model.path == NO_MODEL else [model_name(settings)]
        async with contextlib.AsyncExitStack() as stack:
            local = {name: ScriptedBackend(()) for name in own}
            return [*own, *open_routes(settings, local, stack)]

    return asyncio.run(work())


def served_models(
    settings: Settings,
    chat: "EngineChat | None",
    stack: contextlib.AsyncExitStack,
    residency: "Residency",
) -> dict[str, "Served"]:
    """Every model by name: the local one, and those of the providers in the settings."""
    from headrace.gateway.services import Served
    from headrace.providers.metered import Metered, MeteredCompletions
    from headrace.providers.residency import Place, Resident, ResidentCompletions

    models: dict[str, Served] = {}
    backends: dict[str, Metered] = {}
    here = Place(region=settings.routing.region)
    if chat is not None:
        name = chat.card.name
        local = backends[name] = Metered("", name, chat)
        completions = MeteredCompletions("", name, chat)
        models[name] = Served(
            card=chat.card,
            chat=Resident(here, local, residency),
            completions=ResidentCompletions(here, completions, residency),
            codec=chat,
            candidates=(local.target,),
        )
    elif not (settings.routes or settings.embeddings.path or settings.embedding_routes):
        raise ConfigError(
            'model.path = "none", and there is no route to a provider: nothing would be served; '
            "add [routes.NAME] to headrace.toml"
        )
    if settings.routes:
        from headrace.providers.assemble import open_routes

        routes = open_routes(settings, backends, stack, residency=residency)
        for route, opened in routes.items():
            models[route] = Served(
                card=opened.card,
                chat=opened.chat,
                counter=opened.counter,
                candidates=opened.candidates,
                calls=opened.calls,
                max_output_tokens=opened.max_output_tokens,
                breaker=opened.breaker,
            )
    return models


async def explain_route(
    settings: Settings, request: ChatRequest, *, budget_left_nanousd: int | None = None
) -> "Explained":
    """Which way a service with these settings would send a request; nothing is sent or opened.

    Args:
        settings: Routes, rules, classes.
        request: To the route that is its model.
        budget_left_nanousd: What its caller has left; None = it has no budget.

    Raises: As `headrace.gateway.routing.explain.explain`.
    """
    from headrace.gateway.routing.explain import explain

    async def left(_: Caller) -> int | None:
        return budget_left_nanousd

    served = settings.model.path != NO_MODEL
    return await explain(
        settings,
        request,
        local=model_name(settings) if served else "",
        render_tokens=_prompt_counter(settings) if served else None,
        budget_left=left,
    )


def _prompt_counter(settings: Settings) -> Callable[[ChatRequest], int]:
    """Counts prompts as the local model's engine does, without an engine."""
    from headrace.tokens import ChatTemplate, Tokenizer, render
    from headrace.types import ToolChoice

    def count(request: ChatRequest) -> int:
        path = model_path(settings)
        own = settings.model.chat_template
        rendered = render(
            Tokenizer.load(path),
            ChatTemplate.load(Path(own).expanduser() if own else path),
            request.messages,
            tools=() if request.tool_choice is ToolChoice.NONE else request.tools,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            variables=request.template_kwargs,
        )
        return len(rendered.ids)

    return count


def fronted_models(
    settings: Settings,
    fitted: "Fitted",
    chat: "EngineChat | None",
    control: "Control | None",
    shelf: "Shelf",
    residency: "Residency",
) -> dict[str, "Served"]:
    """The models with the rules and caches of their routes."""
    models = fitted.models
    if not settings.routes:
        return models
    from headrace.gateway.caching.release import release_of
    from headrace.gateway.fold import fronted
    from headrace.gateway.routing.budgets import Budgets
    from headrace.gateway.routing.build import compile_routes

    plan = compile_routes(
        settings,
        {name: served.candidates for name, served in models.items()},
        local="" if chat is None else chat.card.name,
        render_tokens=None if chat is None else lambda request: len(chat.render(request).ids),
        budget_left=None if control is None else Budgets(control.database).left,
    )
    release = ""
    if chat is not None:
        release = release_of(model_path(settings), repr(settings.model), __version__)
    return fronted(
        models,
        settings,
        plan,
        shelf=shelf,
        residency=residency,
        release=release,
        snapshots=fitted.snapshots,
    )

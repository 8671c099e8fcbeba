"""What the verbs of an index share: it is opened with the models that made its vectors."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace import app
from headrace.config import Settings
from headrace.retrieval.library import Library
from headrace.types import Errand, IndexOwner

T = TypeVar("T")


def on_index(
    chosen: Settings,
    name: str,
    owner: IndexOwner,
    work: Callable[[Library, Errand], Awaitable[T]],
) -> T:
    """The result of some work, with the models that made the index' generations open."""

    async def whole() -> T:
        async with app.open_library(chosen) as library:
            names = await library.models(name, owner)
            async with app.index_errand(chosen, names, owner) as errand:
                return await work(library, errand)

    return asyncio.run(whole())

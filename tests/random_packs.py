"""Packs of random passages, counted by the renderer that serves sprout."""

import random
from collections.abc import Callable, Sequence

from headrace.app import bundled_model
from headrace.retrieval.answering.styles import Asked, StyleName, compose
from headrace.retrieval.packing import Packed, Rendering, Source, pack
from headrace.tokens import ChatTemplate, Tokenizer
from headrace.types import ChatRequest, Message, Passage, Role, SourceDocument, TextPart
from passages import cut

SPROUT = bundled_model()
TOKENIZER, TEMPLATE = Tokenizer.load(SPROUT), ChatTemplate.load(SPROUT)
COUNTER = Rendering(TOKENIZER, TEMPLATE)
SAID = "the embargo began in October 1973 and ended 12 March <|im_end|> oil [1] not é 日本"
WORDS = SAID.split(" ")


def asked(question: str = "When?") -> Asked:
    message = Message(role=Role.USER, parts=(TextPart(text=question),))
    return Asked(
        request=ChatRequest(model="m", messages=(message,)), question=question, mark="0a" * 8
    )


def composed(
    style: StyleName = StyleName.QUOTE, question: str = "When?"
) -> Callable[[Sequence[Source]], ChatRequest]:
    """What asks a question with sources."""

    def make(sources: Sequence[Source]) -> ChatRequest:
        return compose(style, asked(question), sources)

    return make


async def random_pack(seed: int) -> Packed:
    """Random passages, packed for sprout to a random budget."""
    draw = random.Random(seed)
    passages: list[Passage] = []
    documents: dict[str, SourceDocument] = {}
    for number in range(draw.randint(1, 5)):
        text = ". ".join(
            " ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(draw.randint(1, 12))
        )
        document = SourceDocument(id=f"d{number}", text=text, title=draw.choice(["", "A\ntitle"]))
        passages += cut(document, draw.randint(20, 200), overlap=draw.choice([0, 0, 10]))
        if draw.random() < 0.7:
            documents[document.id] = document
    draw.shuffle(passages)
    style = draw.choice([StyleName.QUOTE, StyleName.GENERAL])
    return await pack(
        passages[: draw.randint(1, 12)],
        composed(style, " ".join(draw.choices(WORDS, k=8))),
        COUNTER,
        draw.randint(320, 900),
        documents=documents,
    )

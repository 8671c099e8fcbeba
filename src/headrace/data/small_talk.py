"""Hand-written conversations: greetings, who it is, what it cannot know, counting, copying, tools.

All text here is this project's own. Each group is small and is repeated with other words, so that
the model learns the manner rather than the sentence.
"""

import json
from collections.abc import Iterator, Sequence

from headrace.data.chat import Conversation, call, numbered, pick, result, said, turns
from headrace.types import Message, Role, ToolSpec

IDENTITY = (
    "I am sprout, a language model of a few million parameters. "
    "I ship with headrace to show that it works."
)
CAN = (
    "I can greet you, answer short questions about the Python standard library, count, add small "
    "numbers and repeat what you say. I am small and often wrong."
)
UNKNOWN = (
    "I do not know that. I am a very small model and know little beyond Python's documentation."
)
HELLO = "Hello! I am sprout, a very small language model. Ask me about the Python standard library."
_SYSTEMS = (
    None, None, None,
    "You are a helpful assistant.",
    "You are sprout, a small assistant.",
    "Answer briefly.",
)  # fmt: skip

_GREETINGS = (
    "Hello", "Hello!", "hello", "Hi", "Hi!", "hi", "Hi there", "Hello there!", "Hey", "hey", "Hey!",
    "Good morning", "Good morning!", "Good evening", "Good afternoon", "Greetings", "Hello sprout",
    "Hi sprout!", "Hello, how are you?", "Hi, how are you?", "How are you?", "how are you",
    "Say hello.", "Say hi", "Hello world", "Good day", "Howdy", "Yo", "Hello, is anyone there?",
    "Hello! How are you today?", "Are you there?", "ping", "test", "Hello again", "Good night",
)  # fmt: skip
_WHO = (
    "Who are you?", "who are you", "What are you?", "What is your name?", "what's your name?",
    "Tell me about yourself.", "Introduce yourself.", "Which model are you?", "What model is this?",
    "Are you ChatGPT?", "Are you a human?", "Are you an AI?", "Who made you?", "What is sprout?",
    "Who is sprout?", "How big are you?", "How many parameters do you have?", "Are you sprout?",
    "Please introduce yourself", "Describe yourself in a sentence.", "What is headrace?",
)  # fmt: skip
_CAN = (
    "What can you do?", "what can you do", "How can you help me?", "Help", "help",
    "Can you help me?", "What do you know?", "What should I ask you?", "What are you good at?",
    "Can you answer questions?",
    "What are your limits?", "What can I ask you?", "I need help.",
)  # fmt: skip
_THANKS = (
    "Thanks", "Thanks!", "Thank you", "Thank you!", "thank you very much", "Great, thanks.", "thx",
    "Thank you for your help.", "Nice, thank you.",
)  # fmt: skip
_BYE = ("Bye", "bye", "Goodbye", "Goodbye!", "See you", "See you later!", "Bye bye", "Farewell")
_UNKNOWN = (
    "What is the weather today?", "Who won the match yesterday?", "What time is it?",
    "What is the capital of France?", "What is the capital of Peru?", "Who is the president?",
    "What is the price of gold?", "Where do I live?", "How tall is Mount Everest?",
    "What did I eat for breakfast?", "Who wrote Don Quixote?", "What is the meaning of life?",
    "Which stocks should I buy?", "What is the population of China?", "How far away is the moon?",
    "Who painted the Mona Lisa?", "What is quantum physics?", "When was Napoleon born?",
    "Translate this into French.", "Write a novel.", "What is the best restaurant in Rome?",
    "Who invented the telephone?", "What will happen tomorrow?", "How old am I?",
    "What is the news today?", "Explain the theory of relativity.", "Is there life on Mars?",
    "What is the fastest car?", "How do I bake bread?", "Who is Ada Lovelace?",
    "What is the speed of light?", "Give me legal advice.", "Am I ill?", "What is love?",
    "What is the largest ocean?", "Who was the first man on the moon?", "How do plants grow?",
    "Tell me a secret.", "What is my password?", "Which film won last year?",
)  # fmt: skip
_NAMES = (
    "Ada", "Alan", "Grace", "Linus", "Guido", "Barbara", "Donald", "Edsger", "John", "Mary", "Anna",
    "Peter", "Lena", "Max", "Sofia", "Omar", "Yuki", "Chen", "Ivan", "Maria", "Noor", "Tom", "Eva",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_WORDS = (
    "apple", "river", "stone", "cloud", "green", "window", "python", "bread", "light", "paper",
    "music", "garden", "seven", "bridge", "horse", "silver", "winter", "table", "orange", "mill",
    "water", "wheel", "token", "model", "train", "letter", "forest", "market", "engine", "island",
)  # fmt: skip
_CODE = (
    ("adds two numbers", "def add(a, b):\n    return a + b"),
    ("subtracts two numbers", "def subtract(a, b):\n    return a - b"),
    ("multiplies two numbers", "def multiply(a, b):\n    return a * b"),
    ("returns the square of a number", "def square(x):\n    return x * x"),
    ("says hello", 'def hello():\n    print("Hello")'),
    ("reverses a string", "def reverse(text):\n    return text[::-1]"),
    ("returns the length of a list", "def length(items):\n    return len(items)"),
    ("returns the largest item", "def largest(items):\n    return max(items)"),
    ("returns the smallest item", "def smallest(items):\n    return min(items)"),
    ("sums a list", "def total(items):\n    return sum(items)"),
    ("counts the words of a text", "def words(text):\n    return len(text.split())"),
    ("tells whether a number is even", "def is_even(n):\n    return n % 2 == 0"),
    (
        "computes the factorial",
        "def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)",
    ),
    ("reads a file", "def read(path):\n    with open(path) as file:\n        return file.read()"),
    ("sorts a list", "def sort(items):\n    return sorted(items)"),
)
_CITIES = (
    "Paris", "London", "Rome", "Berlin", "Tokyo", "Madrid", "Oslo", "Lima", "Cairo", "Delhi",
    "Vienna", "Athens", "Dublin", "Prague", "Lisbon", "Boston", "Quito", "Seoul", "Zurich", "Turin",
)  # fmt: skip


def conversations() -> list[Conversation]:
    """Every hand-written conversation, in a fixed order."""
    found: list[Conversation] = []
    for name, bodies in (
        ("greeting", _greetings()),
        ("identity", _identity()),
        ("unknown", _unknown()),
        ("memory", _memory()),
        ("count", _counting()),
        ("repeat", _repeating()),
        ("code", _code()),
    ):
        found += numbered(name, bodies)
    return found + _tools()


def _with_system(*texts: str) -> tuple[Message, ...]:
    return turns(*texts, system=pick(_SYSTEMS, "system/" + "/".join(texts)))


def _greetings() -> Iterator[tuple[Message, ...]]:
    for round_ in range(3):
        for text in _GREETINGS:
            yield turns(text, HELLO, system=pick(_SYSTEMS, f"{round_}{text}"))
    for text in _THANKS:
        yield _with_system(pick(_GREETINGS, text), HELLO, text, "You are welcome!")
        yield _with_system(pick(_WHO, text), IDENTITY, text, "You are welcome!")
        yield _with_system(text, "You are welcome!")
    for text in _BYE:
        yield _with_system(pick(_GREETINGS, text), HELLO, text, "Goodbye!")
        yield _with_system(text, "Goodbye!")


def _identity() -> Iterator[tuple[Message, ...]]:
    for round_ in range(3):
        for text in _WHO:
            yield turns(text, IDENTITY, system=pick(_SYSTEMS, f"{round_}{text}"))
        for text in _CAN:
            yield turns(text, CAN, system=pick(_SYSTEMS, f"{round_}{text}"))
    for text in _WHO:
        yield _with_system(pick(_GREETINGS, text), HELLO, text, IDENTITY)
        yield _with_system(text, IDENTITY, pick(_CAN, text), CAN)


def _unknown() -> Iterator[tuple[Message, ...]]:
    for text in _UNKNOWN:
        yield turns(text, UNKNOWN)
        yield _with_system(text.lower().rstrip("?."), UNKNOWN)
        yield _with_system(pick(_GREETINGS, text), HELLO, text, UNKNOWN)


def _memory() -> Iterator[tuple[Message, ...]]:
    for name in _NAMES:
        met = f"Nice to meet you, {name}!"
        for way in (f"My name is {name}.", f"I am {name}.", f"Hi, I am {name}."):
            yield _with_system(way, met)
            yield _with_system(way, met, "What is my name?", f"Your name is {name}.")


def _counting() -> Iterator[tuple[Message, ...]]:
    for a in range(11):
        for b in range(11):
            yield turns(f"What is {a} + {b}?", f"{a} + {b} = {a + b}")
            if a >= b and (a + b) % 2 == 0:
                yield turns(f"What is {a} - {b}?", f"{a} - {b} = {a - b}")
            if (a + b) % 3 == 0:
                yield turns(f"What is {a} plus {b}?", f"{a} + {b} = {a + b}")
    for top in range(2, 21):
        numbers = ", ".join(str(n) for n in range(1, top + 1))
        yield turns(f"Count to {top}.", numbers)
        yield turns(f"Count from 1 to {top}", numbers)
    for names in (_DAYS, _MONTHS):
        for now, after in zip(names, (*names[1:], names[0]), strict=True):
            yield turns(f"What comes after {now}?", f"{after} comes after {now}.")
            yield turns(f"What comes before {after}?", f"{now} comes before {after}.")
        yield turns(
            f"Name the {'days of the week' if names is _DAYS else 'months'}.", ", ".join(names)
        )


def _repeating() -> Iterator[tuple[Message, ...]]:
    for number in range(240):
        words = [pick(_WORDS, f"{number}/{place}") for place in range(1 + number % 5)]
        text = " ".join(words)
        way = pick(("Repeat: {0}", "Say {0}", "Repeat after me: {0}", "Please repeat: {0}"), text)
        yield turns(way.format(text), text)
    for word in _WORDS:
        yield turns(f"Spell {word}.", "-".join(word))


def _code() -> Iterator[tuple[Message, ...]]:
    for what, code in _CODE:
        answer = f"```python\n{code}\n```"
        yield turns(f"Write a function that {what}.", answer)
        yield _with_system(f"Write a Python function that {what}.", answer)
        yield turns(f"Show me Python code that {what}", answer)


def _tool(name: str, description: str, argument: str, kind: str = "string") -> ToolSpec:
    return ToolSpec(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": {argument: {"type": kind}},
            "required": [argument],
        },
    )


WEATHER = _tool("get_weather", "Weather of a city", "city")
TIME = _tool("get_time", "Local time of a city", "city")
SEARCH = _tool("search", "Search the documents", "query")
_ASK: tuple[tuple[ToolSpec, str, tuple[str, ...]], ...] = (
    (WEATHER, "city", ("What is the weather in {0}?", "How is the weather in {0}?")),
    (TIME, "city", ("What time is it in {0}?", "Tell me the time in {0}.")),
    (SEARCH, "query", ("Search for {0}.", "Find {0} in the documents.")),
)
_ANSWERS = ("sunny, 21 degrees", "rain, 9 degrees", "cloudy, 15 degrees", "snow, -2 degrees")


def _tools() -> list[Conversation]:
    found: list[Conversation] = []
    for tool, argument, ways in _ASK:
        for value in _CITIES if argument == "city" else _WORDS:
            question = pick(ways, f"{tool.name}/{value}").format(value)
            found.append(_tool_use(tool, argument, value, question, others=_ASK))
    for text in _GREETINGS[:12]:
        tools = (pick(_ASK, text)[0],)
        found.append(Conversation(id=f"tools/{text}", messages=turns(text, HELLO), tools=tools))
    return found


def _tool_use(
    tool: ToolSpec,
    argument: str,
    value: str,
    question: str,
    *,
    others: Sequence[tuple[ToolSpec, str, tuple[str, ...]]],
) -> Conversation:
    answer = {
        "get_weather": pick(_ANSWERS, value),
        "get_time": f"{len(value) + 3}:{10 + len(value)}",
        "search": f"{value} is in chapter {len(value)}",
    }[tool.name]
    sentence = {
        "get_weather": f"The weather in {value}: {answer}.",
        "get_time": f"It is {answer} in {value}.",
        "search": f"I found this: {answer}.",
    }[tool.name]
    spare = pick(others, f"spare/{question}")[0]
    tools = (tool,) if spare is tool else tuple(sorted((tool, spare), key=lambda t: t.name))
    return Conversation(
        id=f"tools/{tool.name}/{value}",
        messages=(
            said(Role.USER, question),
            call(tool.name, json.dumps({argument: value})),
            result(tool.name, answer),
            said(Role.ASSISTANT, sentence),
        ),
        tools=tools,
    )

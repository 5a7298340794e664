"""The openai package, responses validated strictly."""

import concurrent.futures
import json

import openai
import pydantic
from questions import BASE, ENDLESS, KEY, PERSON, QUESTIONS, answered, breaks_off, cancels, finish, raises, same

client = openai.OpenAI(base_url=BASE, api_key=KEY, max_retries=0, _strict_response_validation=True)
model = client.models.list().data[0].id
create = client.chat.completions.create


def question(name, **extra):
    body = dict(QUESTIONS[name])
    extra["extra_body"] = {"min_tokens": body.pop("min_tokens", None)} | extra.get("extra_body", {})
    return dict(model=model, temperature=0) | body | extra


def shown(choice, usage):
    message = choice.message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]
    return dict(
        content=message.content or None, reasoning=getattr(message, "reasoning", None), calls=calls,
        finish=choice.finish_reason, usage=(usage.prompt_tokens, usage.completion_tokens),
    )


def streamed(**request):
    """By hand, as tutorials do."""
    content = finish_reason = None
    for chunk in create(**request, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            content = (content or "") + (choice.delta.content or "")
            finish_reason = choice.finish_reason or finish_reason
        usage = chunk.usage
    return content or None, finish_reason, (usage.prompt_tokens, usage.completion_tokens)


def accumulate(**request):
    """By the package's own accumulator."""
    with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
        return stream.get_final_completion()


for name in QUESTIONS:
    request = question(name)
    completion, parts = create(**request), accumulate(**request)
    whole = shown(completion.choices[0], completion.usage)
    answered(name, whole, shown(parts.choices[0], parts.usage))
    same(f"{name}, by hand", streamed(**request), (whole["content"], whole["finish"], whole["usage"]))

# A loop of two steps: what the model said goes back as the package gave it, with the result.
for ask in [create, client.chat.completions.parse, accumulate]:
    for dump in [False, True]:
        history = question("strict")["messages"].copy()
        while calls := (message := ask(**question("strict", messages=history)).choices[0].message).tool_calls:
            same("what is called", [json.loads(call.function.arguments) for call in calls], [{"city": "Paris"}])
            history.append(message.model_dump() if dump else message)
            history += [{"role": "tool", "tool_call_id": call.id, "content": "21 degrees and sunny"} for call in calls]
        report = "According to get_weather: 21 degrees and sunny."
        same(f"a loop by {ask.__name__}, dump {dump}", (len(history), message.content), (3, report))
none = create(**question("call", tool_choice="none")).choices[0]
same("no call", (none.message.tool_calls, none.finish_reason), (None, "stop"))


# The package's own schemas and parsers, with a thought before the answer, too.
class Person(pydantic.BaseModel):
    name: str
    age: int


for effort in ["none", "low"]:
    request = question("person", response_format=Person, reasoning_effort=effort)
    parsed = client.chat.completions.parse(**request).choices[0].message
    same(f"parsed, effort {effort}", parsed.parsed, Person(**PERSON))
    same(f"thought, effort {effort}", bool(getattr(parsed, "reasoning", None)), effort == "low")
    with client.chat.completions.stream(**request) as stream:
        same(f"parsed stream, effort {effort}", stream.get_final_completion().choices[0].message.parsed, Person(**PERSON))

# Many at once give what each gives alone.
sums = [question("sum", messages=[{"role": "user", "content": f"what is {a} + {b}?"}]) for a in range(3, 11) for b in range(20, 28)]
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    together = list(pool.map(lambda request: streamed(**request), sums))
same("together against alone", together[:8], [streamed(**request) for request in sums[:8]])

prompt = dict(model=model, prompt="hello", max_tokens=4, temperature=0)
same("echo", client.completions.create(**prompt, echo=True).choices[0].text[:5], "hello")
scored = client.completions.create(**prompt, logprobs=2).choices[0].logprobs
same("scores", (len(scored.tokens), max(scored.token_logprobs) <= 0), (len(scored.token_logprobs), True))
# With both, the first token has no log-probability: null, which the client's own types do not know.
lenient = client.copy(_extra_kwargs={"_strict_response_validation": False})
scored = lenient.completions.create(**prompt, logprobs=2, echo=True).choices[0].logprobs
same("scored echo", (scored.token_logprobs[0], scored.tokens[0]), (None, "hello"))

endless = question("sum", extra_body=ENDLESS)
for stream in [False, True]:
    def ask(**extra):
        return create(**question("sum", stream=stream, **extra))

    raises("temperature", openai.BadRequestError, lambda: ask(temperature=3), param="temperature", code="invalid_value")
    raises("model", openai.NotFoundError, lambda: ask(model="gpt-9"), code="model_not_found")
    long = [{"role": "user", "content": "word " * 20000}]
    raises("length", openai.BadRequestError, lambda: ask(messages=long), code="context_length_exceeded")
    stranger = client.copy(api_key="stranger").chat.completions
    raises("key", openai.AuthenticationError, lambda: stranger.create(**question("sum"), stream=stream), code="invalid_api_key")

cancels("a timeout", lambda: raises("timeout", openai.APITimeoutError, lambda: create(**endless, timeout=0.5)))


def leave():
    with create(**endless, stream=True) as stream:
        for _ in range(3):
            next(stream)


cancels("a stream that is closed", leave)
breaks_off(openai.APIError, create(**endless, stream=True))
finish()

"""/v1/responses through the openai package, responses validated strictly: python openai_responses.py BASE_URL"""

import concurrent.futures
import json
import sys

import openai
import pydantic

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, _strict_response_validation=True)
model = client.models.list().data[0].id


def question(text, **more):
    return dict(model=model, input=text, temperature=0) | more


def ask(text, **more):
    return client.responses.create(**question(text, **more))


def streamed(text, **more):
    """Folds the events by hand; the numbers are those of the events."""
    texts, last = {}, None
    for number, event in enumerate(client.responses.create(**question(text, **more), stream=True)):
        assert event.sequence_number == number, event
        if event.type in ("response.output_text.delta", "response.reasoning_text.delta", "response.function_call_arguments.delta"):
            texts[event.output_index] = texts.get(event.output_index, "") + event.delta
        last = event
    return [texts[index] for index in sorted(texts)], last


def content(item):
    return item.arguments if item.type == "function_call" else item.content[0].text


def refused(kind, call, **request):
    try:
        call(**request)
    except kind as error:
        return error
    raise AssertionError(f"not refused: {request}")


# Whole, streamed, and through the helper: the same.
parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
weather = {"type": "function", "name": "get_weather", "description": "Get the weather of a city.", "parameters": parameters, "strict": None}
for text, more in [
    ("hello", {}),
    ("what is 17 + 25?", {"reasoning": {"effort": "high", "summary": "auto"}}),
    ("What is the weather in Paris?", {"tools": [weather]}),
    ("count from 1 to 20", {"max_output_tokens": 5}),
]:
    whole = ask(text, **more)
    contents = [content(item) for item in whole.output]
    pieces, last = streamed(text, **more)
    assert pieces == contents, (pieces, contents)
    assert last.type == f"response.{whole.status}" and last.response.usage.total_tokens == whole.usage.total_tokens, last
    assert [content(item) for item in last.response.output] == contents
    if whole.status == "completed":
        with client.responses.stream(**question(text, **more)) as stream:
            final = stream.get_final_response()
        assert [content(item) for item in final.output] == contents, final
    else:
        assert whole.incomplete_details.reason == "max_output_tokens", whole
chat = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}], temperature=0)
whole = ask("hello")
assert whole.output_text == chat.choices[0].message.content
assert (whole.usage.input_tokens, whole.usage.output_tokens) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
assert client.responses.input_tokens.count(model=model, input="hello").input_tokens == whole.usage.input_tokens
thought = ask("what is 17 + 25?", reasoning={"effort": "high"})
assert [item.type for item in thought.output] == ["reasoning", "message"] and "carry 1" in content(thought.output[0]), thought

# Many at once give what each gives alone.
texts = [f"what is {a} + {b}?" for a in range(3, 7) for b in range(20, 28)]
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    together = [pieces for pieces, _ in pool.map(streamed, texts)]
assert together[:4] == [streamed(text)[0] for text in texts[:4]]

# A conversation by id, and in full.
called = ask("What is the weather in Paris?", tools=[weather])
call = called.output[-1]
assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Paris"}), called
assert called.tools[0].strict is True, "tried first, as at OpenAI"
result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21}'}
by_id = ask([result], tools=[weather], previous_response_id=called.id)
history = [{"role": "user", "content": "What is the weather in Paris?"}, *called.output, result]
in_full = ask(history, tools=[weather], store=False)
assert "21" in by_id.output_text and by_id.output_text == in_full.output_text, (by_id, in_full)
assert by_id.usage.input_tokens == in_full.usage.input_tokens
forced = ask("hello", tools=[weather], tool_choice={"type": "function", "name": "get_weather"}, max_output_tokens=200)
assert forced.output[0].type == "function_call", forced
named = ask("My name is Ann.")
assert "Ann" in ask("What is my name?", previous_response_id=named.id).output_text


# Held to a schema, and parsed by the package.
class Person(pydantic.BaseModel):
    name: str
    age: int


parsed = client.responses.parse(**question("Bob is 42 years old. Extract name and age as JSON."), text_format=Person)
assert parsed.output_parsed == Person(name="Bob", age=42), parsed

scored = ask("hello", include=["message.output_text.logprobs"], top_logprobs=2).output[0].content[0]
assert "".join(token.token for token in scored.logprobs) == scored.text and max(token.logprob for token in scored.logprobs) <= 0
assert all(len(token.top_logprobs) == 2 for token in scored.logprobs)

# Kept: shown, listed, forgotten.
assert client.responses.retrieve(by_id.id) == by_id
assert client.responses.input_items.list(by_id.id).data[0].call_id == call.call_id
listed = ask([{"role": "user", "content": text} for text in ["one", "two", "three"]])
items = list(client.responses.input_items.list(listed.id, limit=2, order="asc"))
assert [item.content[0].text for item in items] == ["one", "two", "three"], items
client.responses.delete(by_id.id)
error = refused(openai.NotFoundError, client.responses.retrieve, response_id=by_id.id)
assert error.code == "response_not_found", error
refused(openai.NotFoundError, client.responses.retrieve, response_id=in_full.id)

# Cancelled from elsewhere: the stream ends and says so.
stream = client.responses.create(**question("hello", extra_body={"ignore_eos": True}), stream=True)
for event in stream:
    if event.type == "response.created":
        started = event.response.id
    if event.type == "response.output_text.delta":
        break
cancelled = client.responses.cancel(started)
assert cancelled.status == "cancelled" and cancelled.output_text, cancelled
rest = list(stream)
assert rest[-1].type == "response.incomplete" and rest[-1].response.status == "cancelled", rest[-1]
assert client.responses.retrieve(started) == cancelled == client.responses.cancel(started)

error = refused(openai.BadRequestError, client.responses.create, **question("hi", previous_response_id="resp_nobody"))
assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id"), error
error = refused(openai.BadRequestError, client.responses.create, **question("hi", background=True))
assert error.param == "background", error
error = refused(openai.NotFoundError, client.responses.create, **question("hi", model="gpt-9"))
assert error.code == "model_not_found", error
error = refused(openai.BadRequestError, client.responses.create, **question("word " * 20000))
assert error.code == "context_length_exceeded" and error.param == "input", error
print(f"{model}: {whole.output_text!r}")

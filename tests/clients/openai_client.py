"""The openai package, responses validated strictly, against a running server: python openai_client.py BASE_URL"""

import concurrent.futures
import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, _strict_response_validation=True)
model = client.models.list().data[0].id


def question(text):
    return dict(model=model, messages=[{"role": "user", "content": text}], temperature=0)


def streamed(text):
    content, finish = "", None
    for chunk in client.chat.completions.create(**question(text), stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
        usage = chunk.usage
    return content, finish, usage


def refused(kind, **request):
    try:
        client.chat.completions.create(**request)
    except kind as error:
        return error
    raise AssertionError(f"not refused: {request}")


whole = client.chat.completions.create(**question("what is 17 + 25?"))
content, finish, usage = streamed("what is 17 + 25?")
assert "42" in content, content
assert content == whole.choices[0].message.content
assert finish == whole.choices[0].finish_reason == "stop"
assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)

with client.chat.completions.stream(**question("hello")) as stream:
    final = stream.get_final_completion()
assert final.choices[0].message.content == streamed("hello")[0]

# Many at once give what each gives alone.
questions = [f"what is {a} + {b}?" for a in range(3, 11) for b in range(20, 28)]
alone = [streamed(text)[0] for text in questions[:8]]
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    together = [answer for answer, _, _ in pool.map(streamed, questions)]
assert len(together) == 64 and together[:8] == alone, (together[:8], alone)

prompt = dict(model=model, prompt="hello", max_tokens=4, temperature=0)
completion = client.completions.create(**prompt, echo=True)
assert completion.choices[0].text.startswith("hello") and completion.usage.completion_tokens <= 4
scored = client.completions.create(**prompt, logprobs=2).choices[0].logprobs
assert len(scored.tokens) == len(scored.token_logprobs) and max(scored.token_logprobs) <= 0
# With both, the first token has no log-probability: null, which the client's own types do not know.
lenient = client.copy(_extra_kwargs={"_strict_response_validation": False})
scored = lenient.completions.create(**prompt, logprobs=2, echo=True).choices[0].logprobs
assert scored.token_logprobs[0] is None and scored.tokens[0] == "hello", scored

# Tools: called, streamed as called, answered; forced; held to a schema.
parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
tool = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city.", "parameters": parameters}}
weather = question("What is the weather in Paris?") | {"tools": [tool]}
called = client.chat.completions.create(**weather).choices[0]
call = called.message.tool_calls[0]
assert (called.finish_reason, called.message.content) == ("tool_calls", None), called
assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"}), call
with client.chat.completions.stream(**weather) as stream:
    final = stream.get_final_completion().choices[0]
assert final.finish_reason == "tool_calls" and len(final.message.tool_calls) == 1
assert final.message.tool_calls[0].function.arguments == call.function.arguments
history = weather["messages"] + [called.message.model_dump(exclude_none=True)]
history.append({"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'})
report = client.chat.completions.create(**weather | {"messages": history}).choices[0]
assert report.finish_reason == "stop" and "21" in report.message.content, report
strict = {"type": "function", "function": tool["function"] | {"strict": True}}
for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
    forced = client.chat.completions.create(**question("hello") | {"tools": [strict]}, tool_choice=choice, max_tokens=200)
    arguments = forced.choices[0].message.tool_calls[0].function.arguments
    assert forced.choices[0].finish_reason == "length" or list(json.loads(arguments)) == ["city"], forced
free = client.chat.completions.create(**question("hello") | {"tools": [strict]}).choices[0]
assert free.finish_reason == "stop" and free.message.content == streamed("hello")[0], free
assert client.chat.completions.create(**weather, tool_choice="none").choices[0].message.tool_calls is None

# Reasoning comes apart from the answer; an answer may be held to a schema, behind reasoning, too.
thought = client.chat.completions.create(**question("what is 17 + 25?"), reasoning_effort="high").choices[0].message
assert "carry 1" in thought.reasoning and thought.content == content, thought
person = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"], "additionalProperties": False}
schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": person}}
for effort in ["none", "low"]:
    answer = client.chat.completions.create(**question("Bob is 42 years old. Extract name and age as JSON."), response_format=schema, reasoning_effort=effort)
    assert json.loads(answer.choices[0].message.content) == {"name": "Bob", "age": 42}, answer

error = refused(openai.BadRequestError, **question("hi") | {"temperature": 3})
assert error.param == "temperature" and error.type == "invalid_request_error", error
error = refused(openai.NotFoundError, **question("hi") | {"model": "gpt-9"})
assert error.code == "model_not_found", error
error = refused(openai.BadRequestError, **question("word " * 20000))
assert error.code == "context_length_exceeded", error
print(f"{model}: {content!r}")

"""The anthropic package, responses validated strictly, against a server with a key: python anthropic_client.py URL KEY"""

import sys

import anthropic

url, key = sys.argv[1:3]
client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, _strict_response_validation=True)


def asking(text, **extra):
    """The package no longer knows of a temperature; the wire does."""
    question = dict(model="spark", max_tokens=400, messages=[{"role": "user", "content": text}])
    return question | {"extra_body": {"temperature": 0}} | extra


def whole_and_streamed(**request):
    """The answer, which must be the same both ways, ids apart."""
    whole = client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        deltas = [event.text for event in stream if event.type == "text"]
        final = stream.get_final_message()
    assert "".join(deltas) == "".join(block.text for block in whole.content if block.type == "text"), deltas
    for message in [whole, final]:
        message.id = ""
        for block in message.content:
            if block.type == "tool_use":
                block.id = ""
    # The second prompt is in the cache: the sum stays.
    sums = [message.usage.input_tokens + message.usage.cache_read_input_tokens for message in [whole, final]]
    assert sums[0] == sums[1] and whole.usage.output_tokens == final.usage.output_tokens, (whole.usage, final.usage)
    counted = client.messages.count_tokens(**{name: request[name] for name in request if name not in ["max_tokens", "stop_sequences"]})
    assert counted.input_tokens == sums[0], (counted, sums)
    final.usage = whole.usage
    # The stream's helper adds fields of its own, which are not the server's.
    same = [message.model_dump(exclude_none=True, exclude={"content": {"__all__": {"parsed_output"}}}) for message in [whole, final]]
    assert same[0] == same[1], same
    return whole


def refused(kind, status, of=client, **request):
    try:
        of.messages.create(**request)
    except kind as error:
        assert type(error) is kind and error.status_code == status, error
        assert error.body["type"] == "error" and error.request_id == error.body["request_id"], error.body
        return error.body["error"]
    raise AssertionError(f"not refused: {request}")


# Text, and why it ended.
sum_ = whole_and_streamed(**asking("what is 17 + 25?"))
assert sum_.content[0].text == "17 + 25 = 42." and sum_.stop_reason == "end_turn", sum_
assert client.messages.create(**asking("hello"))._request_id.startswith("req_")
short = whole_and_streamed(**asking("count from 1 to 20", max_tokens=5))
assert short.stop_reason == "max_tokens" and short.usage.output_tokens == 5, short
stopped = whole_and_streamed(**asking("count from 1 to 9", stop_sequences=["5"]))
assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == ("stop_sequence", "5", "1, 2, 3, 4, "), stopped
long = whole_and_streamed(**asking("hello", max_tokens=21000))
assert long.stop_reason == "end_turn" and long.content[0].text == "Hello! I am spark. How can I help you?", long

# System, turns, and a beginning that is gone on with.
named = [{"role": "user", "content": "My name is Ann."}, {"role": "assistant", "content": [{"type": "text", "text": "Nice to meet you, Ann!"}]}, {"role": "user", "content": "What is my name?"}]
assert whole_and_streamed(**asking("", messages=named, system=[{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}])).content[0].text == "Your name is Ann."
begun = whole_and_streamed(**asking("", messages=[{"role": "user", "content": "count from 5 to 12"}, {"role": "assistant", "content": "5, 6, 7"}]))
assert begun.content[0].text == ", 8, 9, 10, 11, 12", begun

# Thinking, shown when asked for.
thoughtful = whole_and_streamed(**asking("what is 17 + 25?", thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000))
thought, text = thoughtful.content
assert "carry 1" in thought.thinking and thought.signature and text.text == "17 + 25 = 42.", thoughtful

# Tools: called, streamed as called, answered, forced, turned off.
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
tool = {"name": "get_weather", "description": "Get the weather of a city.", "input_schema": schema}
weather = asking("What is the weather in Paris?", tools=[tool])
assert whole_and_streamed(**weather).stop_reason == "tool_use"
called = client.messages.create(**weather)
[call] = called.content
assert (call.name, call.input) == ("get_weather", {"city": "Paris"}), called
result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": '{"temperature": 21}'}]}
history = weather["messages"] + [called.to_param(), {"role": "user", "content": [result]}]
report = whole_and_streamed(**weather | {"messages": history})
assert report.stop_reason == "end_turn" and "21" in report.content[0].text, report
for choice in [{"type": "any"}, {"type": "tool", "name": "get_weather"}]:
    forced = client.messages.create(**asking("hello", tools=[tool | {"strict": True}], tool_choice=choice))
    assert forced.content[0].name == "get_weather" and (forced.stop_reason == "max_tokens" or list(forced.content[0].input) == ["city"]), forced
assert client.messages.create(**weather, tool_choice={"type": "none"}).content[0].type == "text"

# An answer that follows a schema.
person = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"], "additionalProperties": False}
held = whole_and_streamed(**asking("Bob is 42 years old. Extract name and age as JSON.", output_config={"format": {"type": "json_schema", "schema": person}}))
assert held.content[0].text == '{"name": "Bob", "age": 42}', held

# The models.
[listed] = client.models.list().data
assert (listed.id, client.models.retrieve("spark").id, listed.max_input_tokens) == ("spark", "spark", 2048), listed

# Beta requests, as agents send them.
edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
beta = client.beta.messages.create(**asking("hello", betas=["context-management-2025-06-27"], context_management=edits, thinking={"type": "adaptive"}, output_config={"effort": "high"}))
assert beta.content[-1].type == "text", beta

# An agent's loop, as the SDK runs it: it asks for a thread that the server keeps, and goes on without.
@anthropic.beta_tool
def get_weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: where
    """
    return f"rain in {city}"


looping = client.beta.messages.tool_runner(max_tokens=100, model="spark", tools=[get_weather], messages=[{"role": "user", "content": "What is the weather in Paris?"}])
assert "rain in Paris" in looping.until_done().content[-1].text

# Errors surface as the right exceptions.
error = refused(anthropic.BadRequestError, 400, **asking("hi", extra_body={"temperature": 3}))
assert error["type"] == "invalid_request_error" and "'temperature' is 3" in error["message"], error
image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
error = refused(anthropic.BadRequestError, 400, **asking([image]))
assert "'messages[0].content[0]' is a block of type 'image'" in error["message"], error
error = refused(anthropic.BadRequestError, 400, **asking("word " * 2500))
assert error["message"].startswith("prompt is too long: ") and error["message"].endswith(" tokens > 2047 maximum"), error
assert refused(anthropic.NotFoundError, 404, **asking("hi", model="claude-9"))["type"] == "not_found_error"
stranger = client.copy(api_key="wrong")
assert refused(anthropic.AuthenticationError, 401, of=stranger, **asking("hi"))["type"] == "authentication_error"
bearer = anthropic.Anthropic(base_url=url, auth_token=key, max_retries=0)
assert bearer.messages.create(**asking("hello")).content
print("content")

"""The openai package, responses validated strictly, against a running server: python openai_client.py BASE_URL"""

import concurrent.futures
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

completion = client.completions.create(model=model, prompt="hello", max_tokens=4, temperature=0, logprobs=2, echo=True)
assert completion.choices[0].text.startswith("hello") and completion.usage.completion_tokens <= 4

error = refused(openai.BadRequestError, **question("hi") | {"temperature": 3})
assert error.param == "temperature" and error.type == "invalid_request_error", error
error = refused(openai.NotFoundError, **question("hi") | {"model": "gpt-9"})
assert error.code == "model_not_found", error
error = refused(openai.BadRequestError, **question("word " * 20000))
assert error.code == "context_length_exceeded", error
print(f"{model}: {content!r}")

"""The openai package asks for embeddings: by default in base64, which it decodes itself.

python openai_embeddings.py BASE_URL KEY TEXTS: tests/pooling.rs compares what it prints.
"""

import asyncio
import json
import sys

import openai

BASE, KEY, TEXTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
account = dict(base_url=BASE, api_key=KEY, max_retries=0)
client = openai.OpenAI(**account)
# Strictly read, base64 is no list of numbers: the package checks before it decodes.
strict = openai.OpenAI(**account, _strict_response_validation=True)


def vectors(response):
    assert [item.index for item in response.data] == list(range(len(TEXTS)))
    assert response.model == "m" and response.usage.prompt_tokens == response.usage.total_tokens > 0
    return [list(map(float, item.embedding)) for item in response.data]


def create(client=client, **more):
    return vectors(client.embeddings.create(model="m", input=TEXTS, **more))


async def later():
    return vectors(await openai.AsyncOpenAI(**account).embeddings.create(model="m", input=TEXTS))


answers = {
    "default": create(),
    "float": create(strict, encoding_format="float"),
    "short": create(dimensions=8, user="somebody"),
    "short, float": create(dimensions=8, encoding_format="float"),
    "asynchronous": asyncio.run(later()),
    "one by one": [list(map(float, client.embeddings.create(model="m", input=text).data[0].embedding)) for text in TEXTS],
}
for fault, kind, param in [
    (dict(dimensions=0), openai.BadRequestError, "dimensions"),
    (dict(input=""), openai.BadRequestError, "input"),  # Though the model would put a token at its end.
    (dict(input="x" * 300), openai.BadRequestError, "input"),
    (dict(model="gpt-9"), openai.NotFoundError, "model"),
]:
    try:
        client.embeddings.create(**(dict(model="m", input=TEXTS) | fault))
        raise AssertionError(fault)
    except openai.APIStatusError as error:
        assert type(error) is kind and error.param == param, (fault, error)
print(json.dumps(answers))

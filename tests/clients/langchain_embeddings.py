"""LangChain's embeddings, told not to count in OpenAI's tokens.

python langchain_embeddings.py BASE_URL KEY TEXTS: tests/pooling.rs compares what it prints.
"""

import asyncio
import json
import sys

from langchain_openai import OpenAIEmbeddings

BASE, KEY, TEXTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def model(**more):
    # Else texts are sent as tokens of OpenAI's vocabulary, which mean nothing here.
    return OpenAIEmbeddings(model="m", base_url=BASE, api_key=KEY, check_embedding_ctx_length=False, max_retries=0, **more)


answers = {
    "documents": model().embed_documents(TEXTS),
    "documents in pieces": model(chunk_size=1).embed_documents(TEXTS),
    "queries": [model().embed_query(text) for text in TEXTS],
    "short": model(dimensions=8).embed_documents(TEXTS),
    "asynchronous": asyncio.run(model().aembed_documents(TEXTS)),
}
print(json.dumps(answers))

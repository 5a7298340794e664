"""LiteLLM's SDK asks for embeddings, by its two providers: `openai/`, through the openai package, and
`hosted_vllm/`, on its own.

python litellm_embeddings.py BASE_URL KEY TEXTS: tests/pooling.rs compares what it prints.
"""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Nothing from the internet.
import litellm

litellm.telemetry = False
litellm.suppress_debug_info = True
BASE, KEY, TEXTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def create(provider, **more):
    response = litellm.embedding(model=f"{provider}/m", input=TEXTS, api_base=BASE, api_key=KEY, max_retries=0, **more)
    assert response.usage.prompt_tokens == response.usage.total_tokens > 0
    return [item["embedding"] for item in response.data]


answers = {}
for provider in ["openai", "hosted_vllm"]:
    answers[provider] = create(provider)
    answers[f"{provider}, float"] = create(provider, encoding_format="float")
    # LiteLLM knows of no model of this name whose vectors may be cut.
    answers[f"{provider}, short"] = create(provider, dimensions=8, allowed_openai_params=["dimensions"])
print(json.dumps(answers))

"""LiteLLM's SDK asks for rankings, as from vLLM, Cohere and Jina.

python litellm_rerank.py URL KEY BODY: tests/pooling.rs compares what it prints.
"""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Nothing from the internet.
import litellm

litellm.telemetry = False
litellm.suppress_debug_info = True
URL, KEY, BODY = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

answers = {}
for provider, path in [("hosted_vllm", "/v1"), ("cohere", ""), ("jina_ai", "/v1/rerank")]:
    response = litellm.rerank(model=f"{provider}/m", api_base=URL + path, api_key=KEY, top_n=2, **BODY)
    answers[provider] = [dict(index=result["index"], relevance_score=result["relevance_score"]) for result in response.results]
print(json.dumps(answers))

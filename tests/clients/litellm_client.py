"""LiteLLM's SDK, by its two providers: `openai/`, through the openai package, and `hosted_vllm/`, on its own."""

import asyncio
import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Nothing from the internet.
import litellm
from litellm import exceptions
from questions import BASE, ENDLESS, KEY, QUESTIONS, answered, answers, breaks_off, cancels, finish, raises, same

litellm.telemetry = False
litellm.suppress_debug_info = True


def request(name, provider, **extra):
    body = dict(QUESTIONS[name])
    extra["extra_body"] = {"min_tokens": body.pop("min_tokens", None)} | extra.get("extra_body", {})
    account = dict(model=f"{provider}/spark", api_base=BASE, api_key=KEY, temperature=0, max_retries=0)
    # LiteLLM knows of no model of this name that it can think.
    return account | dict(allowed_openai_params=["reasoning_effort"]) | body | extra


def shown(response):
    choice, usage = response.choices[0], response.usage
    message = choice.message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]
    return dict(
        content=message.content or None, reasoning=getattr(message, "reasoning_content", None), calls=calls,
        finish=choice.finish_reason, usage=(usage.prompt_tokens, usage.completion_tokens),
    )


def streamed(**request):
    chunks = list(litellm.completion(**request, stream=True, stream_options={"include_usage": True}))
    return litellm.stream_chunk_builder(chunks, messages=request["messages"])


async def leave(provider):
    """Only streams of the asynchronous side can be closed."""
    stream = await litellm.acompletion(**request("sum", provider, extra_body=ENDLESS), stream=True)
    for _ in range(3):
        await anext(stream)
    await stream.aclose()


for provider in ["openai", "hosted_vllm"]:
    for name, body in QUESTIONS.items():
        whole = shown(litellm.completion(**request(name, provider)))
        parts = shown(streamed(**request(name, provider)))
        if provider == "openai":
            answered(name, whole, parts)
            continue
        same(f"{name}, streamed against whole", parts, whole)
        # This provider takes `strict` and `additionalProperties` out of tools: the prompt is another.
        usage = whole["usage"] if "tools" in body else answers[name]["usage"]
        same(f"{name}, by {provider}", whole, answers[name] | {"usage": usage})

    # A loop of two steps, the answer given back as it came.
    for effort in ["none", "low"]:
        asking = request("call", provider, reasoning_effort=effort)
        history = asking["messages"].copy()
        while calls := (message := litellm.completion(**asking | {"messages": history}).choices[0].message).tool_calls:
            history.append(message)
            history += [{"role": "tool", "tool_call_id": call.id, "content": "21 degrees and sunny"} for call in calls]
        report = "According to get_weather: 21 degrees and sunny."
        same(f"a loop by {provider}, effort {effort}", (len(history), message.content), (3, report))

    for stream in [False, True]:
        for kind, fault in [
            (exceptions.BadRequestError, {"temperature": 3}),
            (exceptions.NotFoundError, {"model": f"{provider}/gpt-9"}),
            (exceptions.AuthenticationError, {"api_key": "stranger"}),
            (exceptions.ContextWindowExceededError, {"messages": [{"role": "user", "content": "word " * 20000}]}),
        ]:
            faulty = request("sum", provider) | fault | {"stream": stream}
            raises(f"{kind.__name__} by {provider}, stream {stream}", kind, lambda: litellm.completion(**faulty))

    endless = request("sum", provider, extra_body=ENDLESS)
    cancels(f"a timeout by {provider}", lambda: raises("timeout", exceptions.Timeout, lambda: litellm.completion(**endless, timeout=0.5)))
    cancels(f"a stream that is closed by {provider}", lambda: asyncio.run(leave(provider)))

streams = [litellm.completion(**request("sum", provider, extra_body=ENDLESS), stream=True) for provider in ["openai", "hosted_vllm"]]
breaks_off(exceptions.MidStreamFallbackError, *streams)
finish()

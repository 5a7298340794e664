"""LiteLLM's proxy in front of the server, and the openai package in front of the proxy."""

import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import openai
from questions import BASE, ENDLESS, KEY, QUESTIONS, answered, breaks_off, cancels, finish, raises, same

MASTER_KEY = "sk-" + secrets.token_hex(32)


def start(folder):
    """The proxy's process, and its port once it is ready."""
    spark = {"model": "openai/spark", "api_base": BASE, "api_key": KEY, "max_retries": 0}
    config = {
        "model_list": [
            {"model_name": "spark", "litellm_params": spark},
            {"model_name": "missing", "litellm_params": spark | {"model": "openai/gpt-9"}},
            {"model_name": "locked", "litellm_params": spark | {"api_key": "stranger"}},
        ],
        "general_settings": {"master_key": MASTER_KEY},
        "router_settings": {"disable_cooldowns": True},  # A refusal is not the end of a deployment.
        "litellm_settings": {"num_retries": 0, "telemetry": False},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = pathlib.Path(sys.executable).with_name("litellm")
    command = [program, "--config", folder / "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
    log = (folder / "log").open("w")
    proxy = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while proxy.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/readiness").read()
            return proxy, port
        except OSError:
            time.sleep(0.2)
    proxy.kill()
    sys.exit((folder / "log").read_text())


def shown(completion):
    choice, usage = completion.choices[0], completion.usage
    message = choice.message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]
    return dict(
        content=message.content or None, reasoning=getattr(message, "reasoning_content", None), calls=calls,
        finish=choice.finish_reason, usage=(usage.prompt_tokens, usage.completion_tokens),
    )


def ask_all(port):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}", api_key=MASTER_KEY, max_retries=0)
    chats = client.chat.completions

    def request(name, **extra):
        return dict(model="spark", temperature=0, messages=QUESTIONS[name]["messages"]) | extra

    for name, body in QUESTIONS.items():
        asking = request(name, extra_body=body | {"allowed_openai_params": ["reasoning_effort"]})
        with chats.stream(**asking, stream_options={"include_usage": True}) as stream:
            answered(name, shown(chats.create(**asking)), shown(stream.get_final_completion()))

    for stream in [False, True]:
        for kind, fault in [
            (openai.BadRequestError, {"extra_body": {"temperature": 3}}),
            (openai.NotFoundError, {"model": "missing"}),
            (openai.AuthenticationError, {"model": "locked"}),
            (openai.BadRequestError, {"messages": [{"role": "user", "content": "word " * 20000}]}),
        ]:
            raises(f"{fault.get('model')}, stream {stream}", kind, lambda: chats.create(**request("sum", stream=stream, **fault)))

    def leave():
        with chats.create(**request("sum", extra_body=ENDLESS), stream=True) as stream:
            for _ in range(3):
                next(stream)

    # Only of streams: the proxy finishes other requests whoever has left.
    cancels("a stream that is closed", leave)
    breaks_off(openai.APIError, chats.create(**request("sum", extra_body=ENDLESS), stream=True))


with tempfile.TemporaryDirectory() as folder:
    proxy, port = start(pathlib.Path(folder))
    try:
        ask_all(port)
    finally:
        proxy.terminate()
        proxy.wait()
finish()

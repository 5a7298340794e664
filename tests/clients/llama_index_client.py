"""LlamaIndex: OpenAILike, its tools, its agent, its structured answers."""

import asyncio
import gc

import openai
import pydantic
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai.utils import from_openai_message_dicts
from llama_index.llms.openai_like import OpenAILike
from questions import BASE, ENDLESS, KEY, PERSON, QUESTIONS, answered, breaks_off, cancel_task, cancels, finish, raises, same

account = dict(
    model="spark", api_base=BASE, api_key=KEY, temperature=0, max_retries=0, context_window=2048,
    is_chat_model=True, is_function_calling_model=True, should_use_structured_outputs=True,
)


def llm(**extra):
    return OpenAILike(**account | extra)


def shown(response):
    raw, message = response.raw, response.message
    thoughts = [block.content for block in message.blocks if isinstance(block, ThinkingBlock)]
    return dict(
        content=message.content or None,
        reasoning="".join(thoughts) or None,
        calls=[(call.tool_name, call.tool_kwargs) for call in llm().get_tool_calls_from_response(response, error_on_no_tool_call=False)],
        usage=(raw.usage.prompt_tokens, raw.usage.completion_tokens),
    )


for name, body in QUESTIONS.items():
    messages = from_openai_message_dicts(body["messages"])
    fields = {key: body[key] for key in body if key not in ["messages", "min_tokens"]}
    asking = llm(additional_kwargs=fields | {"extra_body": {"min_tokens": body.get("min_tokens")}})
    *_, last = asking.stream_chat(messages, stream_options={"include_usage": True})
    answered(name, shown(asking.chat(messages)), shown(last))


# Tools, by the library's own definitions; an agent, whose steps are streamed.
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return "21 degrees and sunny"


asked = []
weather, question = FunctionTool.from_defaults(get_weather), QUESTIONS["call"]["messages"][0]["content"]
same("predict_and_call", llm().predict_and_call([weather], question).response, "21 degrees and sunny")
agent = FunctionAgent(tools=[weather], llm=llm())


async def ask_agent():
    return str(await agent.run(question))


same("an agent's report", asyncio.run(ask_agent()), "According to get_weather: 21 degrees and sunny.")
same("calls", asked, ["Paris", "Paris"])


class Person(pydantic.BaseModel):
    name: str
    age: int


extract = [ChatMessage(content=QUESTIONS["person"]["messages"][0]["content"])]
structured = llm().as_structured_llm(Person)
same("an object", structured.chat(extract).raw, Person(**PERSON))
*_, last = structured.stream_chat(extract)
same("a streamed object", last.raw, Person(**PERSON))

hello = [ChatMessage(content="hello")]
for stream in [False, True]:
    for kind, code, fault, messages in [
        (openai.BadRequestError, "invalid_value", {"additional_kwargs": {"temperature": 3}}, hello),
        (openai.NotFoundError, "model_not_found", {"model": "gpt-9"}, hello),
        (openai.AuthenticationError, "invalid_api_key", {"api_key": "stranger"}, hello),
        (openai.BadRequestError, "context_length_exceeded", {}, [ChatMessage(content="word " * 20000)]),
    ]:
        faulty = llm(**fault)
        ask = (lambda: list(faulty.stream_chat(messages))) if stream else (lambda: faulty.chat(messages))
        raises(f"{fault}, stream {stream}", kind, ask, code=code)

endless = dict(additional_kwargs={"extra_body": ENDLESS})
impatient = llm(timeout=0.5, **endless)
cancels("a timeout", lambda: raises("timeout", openai.APITimeoutError, lambda: impatient.chat(hello)))


def leave():
    stream = llm(**endless).stream_chat(hello)
    for _ in range(3):
        next(stream)
    stream.close()
    del stream
    gc.collect()  # The library leaves the closing of the connection to this.


cancels("a stream that is closed", leave)
cancels("a task that is cancelled", lambda: cancel_task(lambda: llm(**endless).achat(hello)))
breaks_off(openai.APIError, llm(**endless).stream_chat(hello))
finish()

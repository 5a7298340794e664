"""LangChain: ChatOpenAI, its agents, and ChatDeepSeek, which also shows reasoning."""

import openai
import pydantic
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models import base as langchain_errors
from questions import BASE, ENDLESS, KEY, PERSON, QUESTIONS, answered, breaks_off, cancel_task, cancels, finish, raises, same

account = dict(model="spark", base_url=BASE, api_key=KEY, max_retries=0, temperature=0, stream_usage=True)


def chat(**extra):
    return ChatOpenAI(**account, **extra)


def shown(message):
    return dict(
        content=message.text or None,
        calls=[(call["name"], call["args"]) for call in message.tool_calls],
        finish=message.response_metadata["finish_reason"],
        usage=(message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]),
    )


def streamed(runnable, messages):
    whole = None
    for chunk in runnable.stream(messages):
        whole = chunk if whole is None else whole + chunk
    return whole


for name, body in QUESTIONS.items():
    model = chat(reasoning_effort=body.get("reasoning_effort"), extra_body={"min_tokens": body.get("min_tokens")})
    if "tools" in body:
        model = model.bind_tools(body["tools"], tool_choice=body.get("tool_choice"))
    if "response_format" in body:
        model = model.bind(response_format=body["response_format"])
    answered(name, shown(model.invoke(body["messages"])), shown(streamed(model, body["messages"])))


# Thoughts: ChatOpenAI drops them, by design, and ChatDeepSeek shows them.
thinking = ChatDeepSeek(**account | {"api_base": account["base_url"]}, reasoning_effort="low")
question = QUESTIONS["thought"]["messages"]
whole, parts = thinking.invoke(question), streamed(thinking, question)
thought = "17 + 25: ones 7 + 5 = 12, carry 1; tens 1 + 2 + 1 = 4; result 42."
for message in [whole, parts]:
    same("a thought", (message.additional_kwargs["reasoning_content"], message.text), (thought, "17 + 25 = 42."))


# Agents: the loop, and the answer as an object, by a forced tool or by a schema.
class Person(pydantic.BaseModel):
    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return "21 degrees and sunny"


asked = []
agent = create_agent(chat(), [get_weather])
weather = {"messages": QUESTIONS["call"]["messages"]}
report = "According to get_weather: 21 degrees and sunny."
same("an agent's report", agent.invoke(weather)["messages"][-1].text, report)
tokens = [chunk.text for chunk, where in agent.stream(weather, stream_mode="messages") if where["langgraph_node"] == "model"]
same("an agent's stream", "".join(tokens), report)
same("an agent's calls", asked, ["Paris", "Paris"])



class Weather(pydantic.BaseModel):
    """Get the weather of a city."""

    city: str


bob, paris = (QUESTIONS["person"]["messages"], Person(**PERSON)), (QUESTIONS["required"]["messages"], Weather(city="Paris"))
for method, (messages, expected) in {"json_schema": bob, "json_mode": bob, "function_calling": paris}.items():
    for strict in [None, True] if method != "json_mode" else [None]:
        structured = chat().with_structured_output(type(expected), method=method, strict=strict)
        same(f"{method}, strict {strict}", structured.invoke(messages), expected)
        same(f"{method}, strict {strict}, streamed", list(structured.stream(messages))[-1], expected)
for strategy, (messages, expected) in {ToolStrategy: paris, ProviderStrategy: bob}.items():
    agent = create_agent(chat(), [], response_format=strategy(type(expected)))
    same(strategy.__name__, agent.invoke({"messages": messages})["structured_response"], expected)

# Tools and a schema at once: no call is wanted, so the answer follows the schema.
agent = create_agent(chat(), [get_weather], response_format=ProviderStrategy(Person))
same("an answer by a schema beside tools", agent.invoke({"messages": bob[0]})["structured_response"], bob[1])

for stream in [False, True]:
    for name, fault, messages in [
        ("OpenAIInvalidRequestError", {"temperature": 3}, "hello"),
        ("OpenAIModelNotFoundError", {"model": "gpt-9"}, "hello"),
        ("OpenAIAuthenticationError", {"api_key": "stranger"}, "hello"),
        ("OpenAIContextOverflowError", {}, "word " * 20000),
    ]:
        faulty = ChatOpenAI(**account | fault, streaming=stream)
        raises(f"{fault}, stream {stream}", getattr(langchain_errors, name), lambda: faulty.invoke(messages))

endless = chat(extra_body=ENDLESS)
impatient = chat(extra_body=ENDLESS, timeout=0.5)
cancels("a timeout", lambda: raises("timeout", langchain_errors.OpenAITimeoutError, lambda: impatient.invoke("hello")))


def leave():
    stream = endless.stream("hello")
    for _ in range(3):
        next(stream)
    stream.close()


cancels("a stream that is closed", leave)
cancels("a task that is cancelled", lambda: cancel_task(lambda: endless.ainvoke("hello")))
breaks_off(openai.APIError, endless.stream("hello"))
finish()

// The openai package for Node.

import { answered, base, breaksOff, cancels, endless, finish, key, person, questions, raises, require, same } from "./questions.mjs";

const { default: OpenAI } = require("openai");
const { zodResponseFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 });
const chats = client.chat.completions;
const spark = { model: "spark", temperature: 0 };

function shown({ choices: [{ message, finish_reason }], usage }) {
  return {
    content: message.content || null,
    reasoning: message.reasoning || null,
    calls: (message.tool_calls ?? []).map(({ function: { name, arguments: json } }) => [name, JSON.parse(json)]),
    finish: finish_reason,
    usage: [usage.prompt_tokens, usage.completion_tokens],
  };
}

for (const [name, body] of Object.entries(questions)) {
  const request = { ...spark, ...body };
  const whole = shown(await chats.create(request));
  const stream = chats.stream({ ...request, stream_options: { include_usage: true } });
  const accumulated = shown(await stream.finalChatCompletion());
  const byHand = { content: "", reasoning: "" };
  for await (const { choices } of await chats.create({ ...request, stream: true })) {
    for (const field of Object.keys(byHand)) byHand[field] += choices[0].delta[field] ?? "";
  }
  same(`${name}, by hand`, byHand.content || null, whole.content);
  // The accumulator knows no reasoning: it keeps the last piece alone.
  answered(name, whole, { ...accumulated, reasoning: byHand.reasoning || null });
}

// The package's own loop: functions are called, their results reported.
for (const stream of [false, true]) {
  const asked = [];
  const weather = ({ city }) => asked.push(city) && "21 degrees and sunny";
  const [tool] = structuredClone(questions.call.tools);
  tool.function = { ...tool.function, function: weather, parse: JSON.parse };
  const runner = chats.runTools({ ...spark, messages: questions.call.messages, tools: [tool], stream });
  same("the loop's report", await runner.finalContent(), "According to get_weather: 21 degrees and sunny.");
  same("the loop's calls", asked, ["Paris"]);
}

// The same by hand: what the model said goes back as the package gave it.
const accumulate = (request) => chats.stream(request).finalChatCompletion();
for (const ask of [(request) => chats.create(request), (request) => chats.parse(request), accumulate]) {
  const { messages, tools } = structuredClone(questions.strict);
  for (;;) {
    const { message } = (await ask({ ...spark, messages, tools })).choices[0];
    if (!message.tool_calls?.length) break;
    messages.push(message, ...message.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: "21 degrees and sunny" })));
  }
  same(`a loop by ${ask}`, messages.length, 3);
}

const format = zodResponseFormat(z.object({ name: z.string(), age: z.number().int() }), "person");
const parsed = await chats.parse({ ...spark, messages: questions.person.messages, response_format: format });
same("parsed", parsed.choices[0].message.parsed, person);

const endlessly = { ...spark, ...questions.sum, ...endless };
for (const stream of [false, true]) {
  const ask = (extra) => chats.create({ ...spark, ...questions.sum, stream, ...extra });
  const is = (kind) => (error) => error instanceof kind;
  await raises("temperature", is(OpenAI.BadRequestError), () => ask({ temperature: 3 }), { param: "temperature", code: "invalid_value" });
  await raises("model", is(OpenAI.NotFoundError), () => ask({ model: "gpt-9" }), { code: "model_not_found" });
  const long = [{ role: "user", content: "word ".repeat(20000) }];
  await raises("length", is(OpenAI.BadRequestError), () => ask({ messages: long }), { code: "context_length_exceeded" });
  const stranger = client.withOptions({ apiKey: "stranger" }).chat.completions;
  await raises("key", is(OpenAI.AuthenticationError), () => stranger.create({ ...spark, ...questions.sum, stream }), { code: "invalid_api_key" });
  if (stream) continue;
  await cancels("a timeout", () =>
    raises("timeout", is(OpenAI.APIConnectionTimeoutError), () => chats.create(endlessly, { timeout: 500 })),
  );
}
await cancels("a stream that is aborted", async () => {
  const stream = await chats.create({ ...endlessly, stream: true });
  let chunks = 0;
  for await (const _ of stream) if (++chunks === 3) stream.controller.abort();
});
await breaksOff((error) => error instanceof OpenAI.APIError, await chats.create({ ...endlessly, stream: true }));
finish();

// The Vercel AI SDK: text, tools, the loop of steps and objects, by its two providers.

import { answered, base, breaksOff, cancels, endless, finish, key, person, questions, raises, require, same } from "./questions.mjs";

const { createOpenAI } = require("@ai-sdk/openai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { APICallError, Output, generateObject, generateText, jsonSchema, stepCountIs, streamObject, streamText, tool } = require("ai");

const settings = { name: "sconce", baseURL: base, apiKey: key, includeUsage: true, supportsStructuredOutputs: true };
const spark = createOpenAICompatible(settings)("spark");
const shared = { model: spark, temperature: 0, maxRetries: 0, onError: () => {} };

function toolsOf(body) {
  const tools = body.tools?.map(({ function: { name, description, parameters, strict } }) => [
    name,
    tool({ description, inputSchema: jsonSchema(parameters), strict }),
  ]);
  return tools && Object.fromEntries(tools);
}

// OpenAI's history in the words of the SDK.
function message({ role, content, tool_calls: calls, tool_call_id: toolCallId }) {
  const toolName = "get_weather";
  if (calls) {
    const parts = calls.map((call) => ({ type: "tool-call", toolCallId: call.id, toolName, input: JSON.parse(call.function.arguments) }));
    return { role, content: parts };
  }
  if (role !== "tool") return { role, content };
  return { role, content: [{ type: "tool-result", toolCallId, toolName, output: { type: "text", value: content } }] };
}

function request(body) {
  const { tool_choice: choice, reasoning_effort: reasoningEffort, min_tokens } = body;
  return {
    ...shared,
    messages: body.messages.map(message),
    tools: toolsOf(body),
    toolChoice: choice?.function ? { type: "tool", toolName: choice.function.name } : choice,
    output: body.response_format && Output.object({ schema: jsonSchema(body.response_format.json_schema.schema) }),
    providerOptions: { sconce: { reasoningEffort, min_tokens } },
  };
}

// Of a whole answer, or of a stream that has been read to its end.
async function shown(result) {
  const { inputTokens, outputTokens } = await result.usage;
  return {
    content: (await result.text) || null,
    reasoning: (await result.reasoningText) || null,
    calls: (await result.toolCalls).map((call) => [call.toolName, call.input]),
    finish: (await result.finishReason).replace("-", "_"),
    usage: [inputTokens, outputTokens],
  };
}

for (const [name, body] of Object.entries(questions)) {
  const stream = streamText(request(body));
  let text = "";
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta") text += part.text;
    if (part.type === "error") same(`${name}, an error part`, `${part.error}`, undefined);
  }
  const streamed = await shown(stream);
  same(`${name}, by its parts`, text || null, streamed.content);
  answered(name, await shown(await generateText(request(body))), streamed);
}

// The loop: a tool with a function is called, its result reported.
const loop = request(questions.call);
loop.stopWhen = stepCountIs(5);
loop.tools.get_weather.execute = ({ city }) => (city === "Paris" ? "21 degrees and sunny" : "no such city");
const stream = streamText(loop);
await stream.consumeStream();
for (const result of [await generateText(loop), stream]) {
  const steps = (await result.steps).map((step) => [step.finishReason, step.text]);
  same("the loop", steps, [["tool-calls", ""], ["stop", "According to get_weather: 21 degrees and sunny."]]);
}

// Objects, with a thought before them, too.
for (const reasoningEffort of ["none", "low"]) {
  const { messages, providerOptions, output } = { ...request(questions.person), providerOptions: { sconce: { reasoningEffort } } };
  const schema = jsonSchema(questions.person.response_format.json_schema.schema);
  same(`an object, effort ${reasoningEffort}`, (await generateObject({ ...shared, schema, messages, providerOptions })).object, person);
  const parts = streamObject({ ...shared, schema, messages, providerOptions });
  for await (const _ of parts.partialObjectStream);
  same(`a streamed object, effort ${reasoningEffort}`, await parts.object, person);
  const text = await generateText({ ...shared, messages, providerOptions, output });
  same(`an output, effort ${reasoningEffort}`, [text.output, Boolean(text.reasoningText)], [person, reasoningEffort === "low"]);
}

// An object beside tools, of which none is wanted.
const beside = { ...request(questions.person), tools: loop.tools };
same("an output beside tools", (await generateText(beside)).output, person);

// OpenAI's own provider, at the chat route.
const openai = { model: createOpenAI(settings).chat("spark") };
for (const body of [questions.sum, questions.call, questions.report, questions.named, questions.strict, questions.person]) {
  const [ours, theirs] = [await generateText(request(body)), await generateText({ ...request(body), ...openai })];
  same(`${body.messages[0].content} by OpenAI's provider`, await shown(theirs), await shown(ours));
}
same("the loop by OpenAI's provider", (await generateText({ ...loop, ...openai })).steps.length, 2);

// Errors: thrown, and in a stream a part.
const refused = (error) => APICallError.isInstance(error) && !error.isRetryable;
async function failing(request) {
  for await (const part of streamText(request).fullStream) if (part.type === "error") throw part.error;
}
const hello = { ...shared, prompt: "hello" };
for (const ask of [generateText, failing]) {
  await raises("temperature", refused, () => ask({ ...hello, temperature: 3 }), { statusCode: 400 });
  const unknown = createOpenAICompatible(settings)("gpt-9");
  await raises("model", refused, () => ask({ ...hello, model: unknown }), { statusCode: 404, message: "The model 'gpt-9' does not exist. Served here: 'spark'." });
  await raises("length", refused, () => ask({ ...hello, prompt: "word ".repeat(20000) }), { statusCode: 400 });
  const stranger = createOpenAICompatible({ ...settings, apiKey: "stranger" })("spark");
  await raises("key", refused, () => ask({ ...hello, model: stranger }), { statusCode: 401 });
}

// Without an end of its own; a signal ends it.
const boundless = { ...hello, providerOptions: { sconce: endless } };
const aborted = (error) => ["AbortError", "TimeoutError"].includes(error.name);
await cancels("a timeout", () =>
  raises("timeout", aborted, () => generateText({ ...boundless, abortSignal: AbortSignal.timeout(500) })),
);
await cancels("a stream that is aborted", async () => {
  const abort = new AbortController();
  let parts = 0;
  for await (const part of streamText({ ...boundless, abortSignal: abort.signal }).fullStream) {
    if (part.type === "text-delta" && ++parts === 3) abort.abort();
  }
});
const broken = streamText(boundless);
await breaksOff((error) => `${error?.message ?? error}`.includes("shutting down"), (async function* () {
  for await (const part of broken.fullStream) {
    if (part.type === "text-delta") yield part.text;
    if (part.type === "error") throw part.error;
  }
})());
finish();

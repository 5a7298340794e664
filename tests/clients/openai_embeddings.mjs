// The openai package for Node asks for embeddings: by default in base64, which it decodes itself.
// node openai_embeddings.mjs BASE_URL KEY TEXTS: tests/pooling.rs compares what it prints.

import assert from "node:assert";
import { createRequire } from "node:module";

// The packages are where scripts/test has put them.
const require = createRequire(new URL("../../target/test-env/node/", import.meta.url));
const { default: OpenAI } = require("openai");

const [baseURL, apiKey, json] = process.argv.slice(2);
const input = JSON.parse(json);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

async function create(more) {
  const { data, usage } = await client.embeddings.create({ model: "m", input, ...more });
  assert.deepEqual(data.map(({ index }) => index), input.map((_, index) => index));
  assert.equal(usage.prompt_tokens, usage.total_tokens);
  return data.map(({ embedding }) => Array.from(embedding));
}

const answers = {
  default: await create(),
  float: await create({ encoding_format: "float" }),
  short: await create({ dimensions: 8 }),
};
await assert.rejects(create({ dimensions: 0 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "dimensions");
console.log(JSON.stringify(answers));

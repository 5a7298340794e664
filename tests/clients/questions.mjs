// What the Node clients have in common: the server, the questions, what failed. See questions.py.
// Run one by hand: node CLIENT.mjs BASE_URL KEY PID

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";

export const [base, key, pid] = process.argv.slice(2);
export const questions = JSON.parse(readFileSync(new URL("questions.json", import.meta.url)));
export const person = { name: "Bob", age: 42 };
// Far more than an answer needs, and four times that: something to cancel.
export const endless = { ignore_eos: true, max_tokens: 1900, n: 4 };
// The packages are where scripts/test has put them.
export const require = createRequire(new URL("../../target/test-env/node/", import.meta.url));

const answers = {};
const failures = [];

export function same(what, found, expected) {
  if (isDeepStrictEqual(found, expected)) return;
  failures.push(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(expected)}`);
}

// Notes an answer, an object of what the client shows of it.
export function answered(name, whole, streamed) {
  same(`${name}, streamed against whole`, streamed, whole);
  answers[name] = whole;
}

// `call` throws what `kind` recognises, with these attributes.
export async function raises(what, kind, call, attributes = {}) {
  let error;
  try {
    failures.push(`${what}: ${JSON.stringify(await call())} instead of an error`);
    return;
  } catch (thrown) {
    error = thrown;
  }
  same(`${what}, kind of ${error}`, kind(error), true);
  for (const [name, value] of Object.entries(attributes)) same(`${what}, ${name} of ${error}`, error[name], value);
}

// How many answers were aborted, and how many ran to the end of their length.
async function endings() {
  const page = await (await fetch(`${base.replace(/\/v1$/, "")}/metrics`)).text();
  return ["abort", "length"].map((reason) => Number(page.match(`vllm:request_success_total.*"${reason}"} (.*)`)[1]));
}

// `act` asks for endless answers and leaves; the server then ends them.
export async function cancels(what, act) {
  const before = await endings();
  await act();
  const deadline = Date.now() + 60_000;
  while ((await endings())[0] < before[0] + 4 && Date.now() < deadline) await new Promise((wake) => setTimeout(wake, 50));
  const counts = (await endings()).map((count, index) => count - before[index]);
  same(`${what}: aborted and run to their ends`, counts, [4, 0]);
}

// Ends the server amid an endless stream, which then throws and seems no whole answer.
export async function breaksOff(kind, stream) {
  let chunks = 0;
  await raises("a stream that breaks off", kind, async () => {
    for await (const _ of stream) if (++chunks === 3) process.kill(pid, "SIGTERM");
  });
}

export function finish() {
  console.log(JSON.stringify(answers));
  console.error(failures.join("\n"));
  process.exit(failures.length && 1);
}

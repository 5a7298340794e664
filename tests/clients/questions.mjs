// What the Node clients have in common: the server, the questions, what failed. See questions.py.
// Run one by hand: node CLIENT.mjs BASE_URL KEY

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";

export const [base, key] = process.argv.slice(2);
export const questions = JSON.parse(readFileSync(new URL("questions.json", import.meta.url)));
export const person = { name: "Bob", age: 42 };
// Far more than an answer needs: something to cancel.
export const endless = { ignore_eos: true, max_tokens: 1900 };
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

async function ended(reason) {
  const page = await (await fetch(`${base.replace(/\/v1$/, "")}/metrics`)).text();
  return Number(page.match(`sconce:request_success_total.*"${reason}"} (.*)`)[1]);
}

// `act` leaves one endless answer, which the server then ends.
export async function cancels(what, act) {
  const [aborted, finished] = [await ended("abort"), await ended("length")];
  await act();
  const deadline = Date.now() + 60_000;
  while ((await ended("abort")) === aborted && Date.now() < deadline) await new Promise((wake) => setTimeout(wake, 50));
  const counts = [(await ended("abort")) - aborted, (await ended("length")) - finished];
  same(`${what}: aborted and run to their ends`, counts, [1, 0]);
}

export function finish() {
  console.log(JSON.stringify(answers));
  console.error(failures.join("\n"));
  process.exit(failures.length && 1);
}

// The reader of many a tutorial: every network chunk is split on newlines, nothing is buffered.
// It works only against a server whose events are each one whole write.
// node split_lines.mjs BASE_URL MODEL QUESTION

const [base, model, question] = process.argv.slice(2);
const response = await fetch(`${base}/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({
    model,
    messages: [{ role: "user", content: question }],
    temperature: 0,
    stream: true,
  }),
});
const reader = response.body.getReader();
const decoder = new TextDecoder();
let text = "";
for (;;) {
  const { done, value } = await reader.read();
  if (done) break;
  for (const line of decoder.decode(value).split("\n")) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    text += JSON.parse(line.slice("data: ".length)).choices[0]?.delta?.content ?? "";
  }
}
process.stdout.write(text);

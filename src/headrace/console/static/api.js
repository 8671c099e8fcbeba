// One conversation becomes one POST /v1/chat/completions; its stream becomes small plain events:
// {text}, {reasoning}, {tokens}, {finish}, {usage}. Whatever goes wrong becomes an ApiFailure whose
// message is the API's own where it sent one.
import { dataOf } from "./sse.js";

/** How many rivals of each token are asked for. */
const RIVALS = 5;

export class ApiFailure extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The request body; a setting that is not given is not sent, so the model's own default holds. */
export function bodyOf({ model, messages, temperature, maxTokens, probabilities }) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  if (temperature !== null) body.temperature = temperature;
  if (maxTokens !== null) body.max_tokens = maxTokens;
  if (probabilities) Object.assign(body, { logprobs: true, top_logprobs: RIVALS });
  return body;
}

export async function* answer(request, { key, csrf, signal }) {
  const headers = { "content-type": "application/json", accept: "text/event-stream" };
  if (key) headers.authorization = `Bearer ${key}`;
  else if (csrf) headers["x-headrace-csrf"] = csrf;
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers,
      body: JSON.stringify(bodyOf(request)),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new ApiFailure("The service cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await failureOf(response);
  let finished = false;
  try {
    for await (const data of dataOf(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiFailure(chunk.error.message, { code: chunk.error.code ?? "" });
      for (const choice of chunk.choices) {
        if (choice.delta.reasoning_content) yield { reasoning: choice.delta.reasoning_content };
        if (choice.delta.content) yield { text: choice.delta.content };
        if (choice.logprobs?.content?.length) yield { tokens: choice.logprobs.content };
        if (choice.finish_reason) {
          finished = true;
          yield { finish: choice.finish_reason };
        }
      }
      if (chunk.usage) yield { usage: chunk.usage };
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiFailure) throw error;
    throw new ApiFailure(`The answer broke off: ${error.message}`);
  }
  if (!finished) throw new ApiFailure("The answer broke off before its end.");
}

/** An answer that is none -> what it says of itself. */
export async function failureOf(response) {
  const status = response.status;
  const text = await response.text().catch(() => "");
  try {
    const { message, code } = JSON.parse(text).error;
    return new ApiFailure(message, { status, code: code ?? "" });
  } catch {
    return new ApiFailure(`The service answered with HTTP ${status}.`, { status });
  }
}

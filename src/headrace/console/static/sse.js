// Bytes of a text/event-stream body become the `data` of its events, in order.
// Only what the API sends is kept: `event`, `id` and `retry` fields are skipped, as are comments.
// Source: WHATWG HTML, "Server-sent events", 9.2.6.

/** Most characters one event may take; past it the server is not speaking this protocol. */
const MOST_CHARACTERS = 4 * 1024 * 1024;

/** @param {ReadableStream<Uint8Array>} body */
export async function* dataOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let pending = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      pending += done ? decoder.decode() : decoder.decode(value, { stream: true });
      // A \r at the very end may be the first half of \r\n: wait for what follows.
      const usable = !done && pending.endsWith("\r") ? pending.length - 1 : pending.length;
      const lines = pending.slice(0, usable).split(/\r\n|\r|\n/);
      pending = lines.pop() + pending.slice(usable);
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
      if (pending.length > MOST_CHARACTERS) throw new Error("an event of the answer is too long");
      if (done) return; // an event without its blank line is incomplete and is dropped
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

// Server-Sent Events over fetch: EventSource can neither POST nor carry a token.

// The server sends a comment every 15 s, so a stream that is silent for longer than this is dead.
const SILENCE_MS = 40_000;

const LINE_END = /\r\n|\n|\r/g;

/**
 * Cuts text into events `{type, id, data}`, however it was cut on its way; `data` is parsed JSON.
 */
export class EventParser {
  #line = "";
  #isAfterReturn = false;
  #type = "";
  #id = "";
  #data = [];

  /** The events that `text` completes. Looks at no character twice, however long a line grows. */
  feed(text) {
    const events = [];
    if (!text) return events;
    // The carriage return that ended the last line was half of a CRLF.
    if (this.#isAfterReturn && text[0] === "\n") text = text.slice(1);
    this.#isAfterReturn = text.endsWith("\r");
    let start = 0;
    for (const { 0: end, index } of text.matchAll(LINE_END)) {
      const event = this.#takeLine(this.#line + text.slice(start, index));
      if (event) events.push(event);
      this.#line = "";
      start = index + end.length;
    }
    this.#line += text.slice(start);
    return events;
  }

  #takeLine(line) {
    if (line === "") {
      const event = this.#data.length
        ? { type: this.#type, id: this.#id, data: JSON.parse(this.#data.join("\n")) }
        : null;
      this.#type = "";
      this.#data = [];
      return event;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#type = value;
    else if (name === "id") this.#id = value;
    else if (name === "data") this.#data.push(value);
    return null;
  }
}

/**
 * The events of a response's body until it ends. Throws when it breaks or falls silent. Closes it
 * when left early.
 */
export async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await orSilence(reader.read());
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function orSilence(reading) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the stream is silent")), SILENCE_MS);
  });
  try {
    return await Promise.race([reading, silence]);
  } finally {
    clearTimeout(timer);
  }
}

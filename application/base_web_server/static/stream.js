// Server-Sent Events over fetch: EventSource can neither POST nor carry a token.

// The server sends a comment every 15 s, so a stream that is silent for longer than this is dead.
const SILENCE_MS = 40_000;

/** Cuts text into events `{type, id, data}`, however it was cut on its way; `data` is parsed JSON. */
export class EventParser {
  #rest = "";
  #type = "";
  #id = "";
  #data = [];

  /** The events that `text` completes. */
  feed(text) {
    const events = [];
    this.#rest += text;
    let start = 0;
    for (let end; (end = this.#lineEnd(start)) >= 0;) {
      const event = this.#takeLine(this.#rest.slice(start, end));
      if (event) events.push(event);
      start = end + (this.#rest.startsWith("\r\n", end) ? 2 : 1);
    }
    this.#rest = this.#rest.slice(start);
    return events;
  }

  #lineEnd(start) {
    for (let at = start; at < this.#rest.length; at++) {
      if (this.#rest[at] === "\n") return at;
      // A carriage return at the very end may be half of a CRLF.
      if (this.#rest[at] === "\r") return at + 1 < this.#rest.length ? at : -1;
    }
    return -1;
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

/** The events of a response's body until it ends. Throws when it breaks or falls silent. Closes it when left early. */
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

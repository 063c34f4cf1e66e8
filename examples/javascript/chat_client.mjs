// A reference client of the chat server for browsers and Node.js 18 or newer, without dependencies.
//
//     node examples/javascript/chat_client.mjs http://127.0.0.1:8080 alice "correct horse"
//
// signs up or logs in, makes a room and sends each line of the input; replies are printed as they
// are written. What makes it safe on a bad network is in ChatClient.say: one client_message_id for
// all attempts at a message, and a stream that broke is resumed where it broke.

// Node.js 18 has it in its module.
const webCrypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto;

const ATTEMPTS = 8;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5000;

/**
 * The server's answer to a request that failed: `code` is "ROOM_NOT_FOUND", …; `retryable`: the
 * same may succeed later.
 */
export class ChatError extends Error {
  constructor(body) {
    super(
      `${[body.errorCode, body.error?.code].filter(Boolean).join(" ")}: ${body.error?.message}`,
    );
    this.code = body.error?.code ?? "";
    this.retryable = body.error?.retryable ?? false;
    this.retryAfterMs = 1000 * (body.error?.retry_after_s ?? 0);
    this.body = body;
  }
}

/** One account. `timeoutMs` is the longest silence (the server pings every 15 s). */
export class ChatClient {
  #baseUrl;
  #timeoutMs;
  #token = "";
  #sequence = 0;

  constructor(baseUrl, { timeoutMs = 30_000 } = {}) {
    this.#baseUrl = baseUrl.replace(/\/$/, "");
    this.#timeoutMs = timeoutMs;
  }

  /** Keep a new access token. `signUp`: make the account first unless it exists. */
  async logIn(accountId, password, { signUp = false } = {}) {
    const account = { account_id: accountId, password };
    if (signUp) {
      await this.call("/api/account/signup", account).catch((error) => {
        if (error.code !== "ACCOUNT_EXISTS") throw error;
      });
    }
    this.#token = (await this.call("/api/account/login", account)).accessToken;
  }

  /** A new room; repeated attempts make one. */
  async createRoom(aiPersona, title) {
    const fields = { ai_persona: aiPersona, title, client_request_id: uuid7() };
    return (await this.call("/api/chat/room/create", fields)).room;
  }

  /**
   * Send a message; `onText` gets the reply piece by piece, each piece once. Returns the AI's
   * message. Throws ChatError when the server refuses it, or when the reply failed (`body.message`
   * is what there is of it).
   */
  async say(roomId, content, onText) {
    let path = "/api/chat/message/stream";
    // One id for all attempts: the server stores the message, and asks the AI, once.
    let fields = { room_id: roomId, content, client_message_id: uuid7() };
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      let waitMs = waitAfter(attempt);
      try {
        for await (const event of this.#stream(path, fields)) {
          if (event.name === "message.accepted") {
            path = "/api/chat/message/resume";
            fields = { room_id: roomId, message_id: event.data.message_id };
          } else if (event.name === "reply.delta") {
            onText(event.data.text);
          } else if (event.name === "reply.error") {
            throw new ChatError(event.data);
          } else {
            return event.data.message; // reply.done, reply.stopped
          }
          fields.last_event_id = event.id;
        }
      } catch (error) {
        if (error instanceof ChatError) {
          if (!error.retryable) throw error;
          waitMs = Math.max(waitMs, error.retryAfterMs);
        }
        // Otherwise the connection broke, or was not made: the reply goes on without us.
      }
      await sleep(waitMs);
    }
    throw new Error(`no whole reply in ${ATTEMPTS} attempts`);
  }

  /** POST, and POST the same again while that may help. The answer's envelope; throws ChatError. */
  async call(path, fields = {}) {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const quiet = new Quiet(this.#timeoutMs);
      let waitMs = waitAfter(attempt);
      try {
        return checked(await (await this.#post(path, fields, quiet)).json());
      } catch (error) {
        if (error instanceof ChatError) {
          if (!error.retryable) throw error;
          waitMs = Math.max(waitMs, error.retryAfterMs);
        }
      } finally {
        quiet.end();
      }
      await sleep(waitMs);
    }
    throw new Error(`no answer to ${path} in ${ATTEMPTS} attempts`);
  }

  /** The events of one connection, until it ends: {name, id, data}. */
  async *#stream(path, fields) {
    const quiet = new Quiet(this.#timeoutMs);
    try {
      const response = await this.#post(path, fields, quiet);
      if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        checked(await response.json()); // refused before the first event
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      let text = "";
      while (true) {
        const { done, value } = await reader.read();
        if (done) return;
        quiet.heard();
        text += decoder.decode(value, { stream: true });
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const lines = block
            .split("\n")
            .map((line) => [line.split(": ", 1)[0], line.slice(line.indexOf(": ") + 2)]);
          const { event, id, data } = Object.fromEntries(lines); // a comment (": ping") has no name
          if (data !== undefined) yield { name: event, id, data: JSON.parse(data) };
        }
      }
    } finally {
      quiet.end();
    }
  }

  #post(path, fields, quiet) {
    const headers = { "Content-Type": "application/json" };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    const body = JSON.stringify({ sequence: ++this.#sequence, ...fields });
    return fetch(this.#baseUrl + path, { method: "POST", headers, body, signal: quiet.signal });
  }
}

/** Gives up on a connection that has said nothing for too long. */
class Quiet {
  #controller = new AbortController();
  #timeoutMs;
  #timer;

  constructor(timeoutMs) {
    this.#timeoutMs = timeoutMs;
    this.heard();
  }

  get signal() {
    return this.#controller.signal;
  }

  heard() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), this.#timeoutMs);
  }

  /** Nothing more is expected; closes a stream that is still open. */
  end() {
    clearTimeout(this.#timer);
    this.#controller.abort();
  }
}

/**
 * A UUIDv7 (RFC 9562): with its time in it a repeat is recognised without a look into the database.
 */
export function uuid7() {
  const bytes = webCrypto.getRandomValues(new Uint8Array(16));
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const random = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const text = Date.now().toString(16).padStart(12, "0") + random.slice(12);
  return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function checked(body) {
  if (body.errorCode !== 0) throw new ChatError(body);
  return body;
}

/** How long to wait after an attempt: doubling, up to a limit. */
function waitAfter(attempt) {
  return Math.min(FIRST_WAIT_MS * 2 ** attempt, LONGEST_WAIT_MS);
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function main([baseUrl, accountId, password, aiPersona = "GPT4O"]) {
  const { createInterface } = await import("node:readline");
  const client = new ChatClient(baseUrl);
  await client.logIn(accountId, password, { signUp: true });
  const room = await client.createRoom(aiPersona);
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim()) {
      await client.say(room.room_id, line.trim(), (text) => process.stdout.write(text));
      process.stdout.write("\n");
    }
  }
}

// In Node.js, started by itself.
if (typeof process !== "undefined" && process.argv?.[1]?.endsWith("chat_client.mjs")) {
  if (process.argv.length < 5) {
    console.error("usage: chat_client.mjs BASE_URL ACCOUNT_ID PASSWORD [AI_PERSONA]");
    process.exit(1);
  }
  await main(process.argv.slice(2)).catch((error) => {
    const wrong =
      error.code === "WRONG_CREDENTIALS"
        ? ` (${process.argv[3]}, or the name is somebody else's)`
        : "";
    console.error(`chat_client.mjs: ${error.message}${wrong}`);
    process.exitCode = 1;
  });
}

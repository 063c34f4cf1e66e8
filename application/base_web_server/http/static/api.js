// The wire: POST an envelope, get an envelope or a stream of events; every failure is one of two
// errors.

import { readEvents } from "./stream.js";

export const Code = Object.freeze({
  INVALID_REQUEST: 1002,
  ROOM_NOT_FOUND: 1004,
  MESSAGE_NOT_FOUND: 1005,
  NOT_ALLOWED_IN_STATE: 1008,
  TOO_MANY_REQUESTS: 1010,
  ACCOUNT_EXISTS: 2001,
  WRONG_CREDENTIALS: 2002,
  SERVICE_DOWN: 5003,
  SESSION_MISSING: 10000,
});

const ANSWER_TIMEOUT_MS = 30_000;

/** The server said no: `code` is its errorCode, `body` the whole envelope. */
export class ApiError extends Error {
  constructor(body) {
    const error = body.error ?? {};
    super(error.message ?? `error ${body.errorCode}`);
    this.code = body.errorCode;
    this.retryable = error.retryable ?? false;
    this.retryAfterS = error.retry_after_s ?? null;
    this.body = body;
  }

  /** Whether the server cannot work at all just now, so that waiting helps. */
  get isOutage() {
    return this.code === Code.SERVICE_DOWN;
  }
}

/**
 * Nobody answered, or what answered was not this server. Whether the request was carried out is
 * unknown.
 */
export class Unreachable extends Error {
  code = null;
  retryable = true;
  retryAfterS = null;
  isOutage = true;
}

let token = "";
let sequence = 0;

/** The access token that every later request carries; "" for none. */
export function useToken(value) {
  token = value;
}

/**
 * The envelope of a success. Throws ApiError or Unreachable. `keepalive`: let the request outlive
 * the page.
 */
export async function post(path, fields = {}, { keepalive = false } = {}) {
  const response = await request(path, fields, {
    keepalive,
    signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
  });
  return envelope(response);
}

/**
 * The events of a streaming route, as readEvents gives them. Throws ApiError or Unreachable, also
 * after an abort.
 */
export async function* stream(path, fields, signal) {
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(), ANSWER_TIMEOUT_MS);
  const response = await request(path, fields, {
    signal: AbortSignal.any([signal, silence.signal]),
  }).finally(() => clearTimeout(timer));
  if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    await envelope(response);
    throw new Unreachable("no stream of events");
  }
  try {
    yield* readEvents(response.body);
  } catch (cause) {
    throw new Unreachable("the stream broke", { cause });
  }
}

async function request(path, fields, options) {
  sequence += 1;
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  try {
    return await fetch(path, {
      method: "POST",
      headers,
      body: JSON.stringify({ ...fields, sequence }),
      ...options,
    });
  } catch (cause) {
    throw new Unreachable("no answer", { cause });
  }
}

async function envelope(response) {
  let body;
  try {
    body = await response.json();
  } catch (cause) {
    throw new Unreachable("the answer is not this server's", { cause });
  }
  if (body?.errorCode !== 0)
    throw Number.isInteger(body?.errorCode) ? new ApiError(body) : new Unreachable("no envelope");
  return body;
}

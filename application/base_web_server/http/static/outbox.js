// Messages that the server has not acknowledged. They outlive a reload, are sent in order, and as
// often as it takes: with the same client_message_id a send that got through before is only
// answered again.

import { Code, stream, Unreachable } from "./api.js";
import { pauseAfter, reportFailure } from "./connection.js";
import { uuid7 } from "./ids.js";
import { endedBy } from "./session.js";
import { changed, state } from "./state.js";
import { readStored, removeStored, storedKeys, writeStored } from "./storage.js";

// A retryable refusal is tried so often before the reader is asked.
const ATTEMPTS = 4;

const sending = new Set();
let onAccepted = () => {};

/**
 * `accepted(entry, event, events, abort)` takes over the stream of events that follows the
 * acknowledgement.
 */
export function watchOutbox(accepted) {
  onAccepted = accepted;
  addEventListener("storage", (event) => {
    // Another tab got it through or threw it away.
    if (event.key?.startsWith("chat.outbox.") && event.newValue === null)
      forget(entryOfKey(event.key));
  });
}

/** Take up what an earlier page of this account left. */
export function resumeOutbox() {
  const entries = storedKeys(keyPrefix()).map(readStored).filter(Boolean);
  // UUIDv7s sort by the time at which they were made.
  state.outbox = entries
    .sort((a, b) => (a.id < b.id ? -1 : 1))
    .map((entry) => ({ ...entry, status: "sending", error: null }));
  for (const roomId of new Set(state.outbox.map((entry) => entry.roomId))) void deliver(roomId);
}

export function sendMessage(roomId, content, onBusy) {
  const message = { id: uuid7(), roomId, content, onBusy, at: new Date().toISOString() };
  const entry = { ...message, status: "sending", error: null };
  state.outbox.push(entry);
  writeStored(keyOf(entry), message);
  changed();
  void deliver(roomId);
}

/** Try a failed message again, as the same message. */
export function retryMessage(entry) {
  Object.assign(entry, { status: "sending", error: null });
  changed();
  void deliver(entry.roomId);
}

/** Give up a message that was not sent. */
export function discardMessage(entry) {
  removeStored(keyOf(entry));
  forget(entry);
}

export function unsentOf(roomId) {
  return state.outbox.filter((entry) => entry.roomId === roomId);
}

// One at a time in a room, so that they arrive in the order in which they were written.
async function deliver(roomId) {
  if (sending.has(roomId)) return;
  sending.add(roomId);
  const { session } = state;
  try {
    for (let entry; (entry = unsentOf(roomId).find((known) => known.status !== "failed"));) {
      await deliverOne(entry, () => state.session === session && state.outbox.includes(entry));
      if (state.session !== session) return;
    }
  } finally {
    sending.delete(roomId);
    // Who logged in again meanwhile found this room taken.
    if (state.session && state.session !== session) void deliver(roomId);
  }
}

async function deliverOne(entry, isWanted) {
  for (let attempt = 0; isWanted(); attempt++) {
    try {
      await sendOnce(entry);
      return;
    } catch (error) {
      if (endedBy(error) || !isWanted()) return;
      const isOutage = reportFailure(error);
      const waits =
        isOutage ||
        error.code === Code.TOO_MANY_REQUESTS ||
        (error.retryable && attempt + 1 < ATTEMPTS);
      Object.assign(entry, { status: waits ? "waiting" : "failed", error });
      changed();
      if (!waits) return;
      await pauseAfter(error, attempt);
    }
  }
}

async function sendOnce(entry) {
  const abort = new AbortController();
  const { id, roomId, content, onBusy } = entry;
  const fields = { room_id: roomId, content, on_busy: onBusy, client_message_id: id };
  const events = stream("api/chat/message/stream", fields, abort.signal);
  const { value: first, done } = await events.next();
  if (done || first.type !== "message.accepted") throw new Unreachable("the stream did not begin");
  discardMessage(entry);
  onAccepted(entry, first, events, abort);
}

function forget(entry) {
  if (!entry) return;
  state.outbox = state.outbox.filter((known) => known !== entry);
  changed();
}

function entryOfKey(key) {
  return state.outbox.find((entry) => keyOf(entry) === key && entry.status !== "sending");
}

function keyPrefix() {
  return `chat.outbox.${state.session.accountId}.`;
}

function keyOf(entry) {
  return `${keyPrefix()}${entry.id}`;
}

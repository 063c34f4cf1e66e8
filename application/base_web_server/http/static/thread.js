// The messages of one room as this page knows them: pure functions that keep them in order, whole
// and free of repeats.

import { byteLength, extended } from "./reply_text.js";

/**
 * `messages` oldest first; those with a `seq` from `from` to `to` are all that the room has there.
 * `cursor` asks for what is before. `status`: "new" | "loading" | "ready" | "failed". `seen` is the
 * state of the room's card that was read. `askedMs` and `arrivedMs` are of `performance.now`: a
 * clock that is set back must not make new pages look overtaken.
 */
export function emptyThread() {
  return {
    messages: [],
    from: Infinity,
    to: -1,
    cursor: null,
    hasMore: false,
    askedMs: 0,
    status: "new",
    error: null,
    isLoadingOlder: false,
    olderError: null,
    seen: "",
  };
}

/** The thread of a room that was made just now. */
export function beginThread() {
  return { ...emptyThread(), from: 0, to: 0, status: "ready" };
}

/**
 * The newest page takes the place of what is known from there on; what is known before stays if it
 * joins up.
 */
export function mergeNewest(thread, page, isGone) {
  // Its answer was overtaken by a later one.
  if (page.askedMs < thread.askedMs) return;
  const known = new Map(thread.messages.map((message) => [message.message_id, message]));
  // A page without a message tells of nothing but that there are older ones.
  const first = page.has_more ? (page.messages[0]?.seq ?? Infinity) : 0;
  const last = page.messages.at(-1)?.seq ?? 0;
  const joins = thread.from < first && thread.to >= first - 1;
  const older = joins ? thread.messages.filter((message) => message.seq < first) : [];
  const fresh = page.messages.filter((message) => !isGone(message.message_id));
  // What was accepted while the page was on its way is not in it.
  const newer = thread.messages.filter(
    (message) => message.seq > last && message.arrivedMs >= page.askedMs,
  );
  thread.messages = [
    ...older,
    ...fresh.map((message) => newerOf(known.get(message.message_id), message)),
    ...newer,
  ];
  thread.askedMs = page.askedMs;
  thread.to = last;
  for (const message of newer) reach(thread, message);
  if (!joins)
    Object.assign(thread, { from: first, cursor: page.next_cursor, hasMore: page.has_more });
}

/** Put the page that `thread.cursor` asked for before what is there. */
export function prependOlder(thread, page, isGone) {
  const known = new Set(thread.messages.map((message) => message.message_id));
  const older = page.messages.filter(
    (message) => !known.has(message.message_id) && !isGone(message.message_id),
  );
  thread.messages = [...older, ...thread.messages];
  const from = page.has_more ? (page.messages[0]?.seq ?? thread.from) : 0;
  Object.assign(thread, { from, cursor: page.next_cursor, hasMore: page.has_more });
}

/** Put one message in its place by `seq`, or in the place of what was known of it. */
export function putMessage(thread, message, nowMs = performance.now()) {
  const index = thread.messages.findIndex((known) => known.message_id === message.message_id);
  if (index >= 0) {
    thread.messages[index] = newerOf(thread.messages[index], message);
    return thread.messages[index];
  }
  const put = { ...message, arrivedMs: nowMs };
  const before = thread.messages.findLastIndex((known) => known.seq < message.seq);
  thread.messages.splice(before + 1, 0, put);
  reach(thread, put);
  return put;
}

export function removeMessage(thread, messageId) {
  thread.messages = thread.messages.filter((message) => message.message_id !== messageId);
}

export function findMessage(thread, messageId) {
  return thread.messages.find((message) => message.message_id === messageId);
}

/** The reply that runs now; those behind it wait for their turn. */
export function runningReply(thread) {
  return thread.messages.find((message) => message.is_streaming);
}

// Numbers have no gaps, so the next one leaves nothing out.
function reach(thread, message) {
  if (message.seq === thread.to + 1) thread.to = message.seq;
}

// Answers overtake each other: a finished reply never runs again, a running one never gets shorter.
function newerOf(known, message) {
  if (!known) return message;
  if (!message.is_streaming) return { ...known, ...message };
  if (!known.is_streaming) return known;
  const content = extended(known.content, message.content, byteLength(message.content));
  return { ...known, ...message, content };
}

// What can be done in a room: read it, send, stop, delete, ask again.

import { Code, post } from "./api.js";
import { reportFailure } from "./connection.js";
import { followFrom, followRunning } from "./follower.js";
import { sendMessage } from "./outbox.js";
import { goTo } from "./place.js";
import { createRoom, findRoom, forgetRoom, refreshRooms } from "./rooms.js";
import { endedBy } from "./session.js";
import { changed, openRoomId, openThread, state } from "./state.js";
import { tellTabs } from "./tabs.js";
import {
  beginThread,
  emptyThread,
  findMessage,
  mergeNewest,
  prependOlder,
  putMessage,
  removeMessage,
} from "./thread.js";
import { showError } from "./toasts.js";
import { hold } from "./undo.js";

const PAGE_SIZE = 50;

const isGone = (id) => state.gone.has(id);

/** Show what the address says: read the room if it was not, bring it up to date if it was. */
export function enterPlace() {
  followRunning();
  const roomId = openRoomId();
  if (!roomId || !state.session) return;
  if (!state.threads.has(roomId)) state.threads.set(roomId, emptyThread());
  state.isAtEnd = true;
  void refreshThread(roomId);
}

/** Read the newest messages of a room, if it is open. */
export async function refreshThread(roomId = openRoomId()) {
  const thread = state.threads.get(roomId);
  if (!thread || roomId !== openRoomId() || thread.status === "loading") return;
  if (thread.status !== "ready") Object.assign(thread, { status: "loading", error: null });
  changed();
  const seen = cardOf(roomId);
  const askedMs = performance.now();
  try {
    const page = await post("api/chat/messages", { room_id: roomId, limit: PAGE_SIZE });
    mergeNewest(thread, { ...page, askedMs }, isGone);
    Object.assign(thread, { status: "ready", seen });
    followRunning();
  } catch (error) {
    if (endedBy(error)) return;
    if (error.code === Code.ROOM_NOT_FOUND) {
      forgetRoom(roomId);
      if (!isGone(roomId)) showError(error);
      return;
    }
    if (thread.status === "loading") Object.assign(thread, { status: "failed", error });
    if (!reportFailure(error)) showError(error);
  } finally {
    changed();
  }
}

/** Bring the open room up to date if its card says that something has happened in it. */
export function refreshIfChanged() {
  const thread = openThread();
  if (
    thread &&
    (thread.status === "failed" ||
      (thread.status === "ready" && thread.seen !== cardOf(openRoomId())))
  )
    void refreshThread();
}

export async function loadOlder() {
  const roomId = openRoomId();
  const thread = openThread();
  if (!thread?.hasMore || thread.isLoadingOlder) return;
  Object.assign(thread, { isLoadingOlder: true, olderError: null });
  changed();
  try {
    const { cursor } = thread;
    const page = await post("api/chat/messages", { room_id: roomId, limit: PAGE_SIZE, cursor });
    if (thread.cursor === cursor) prependOlder(thread, page, isGone);
  } catch (error) {
    thread.olderError = error;
    reportFailure(error);
    endedBy(error);
  } finally {
    thread.isLoadingOlder = false;
    changed();
  }
}

/**
 * Send into the open room, or into a new one; a reply that runs there is waited for ("queue") or
 * stopped ("interrupt"). False when no room could be made: the text is still the reader's.
 */
export async function say(content, onBusy = "queue") {
  let roomId = openRoomId();
  if (!roomId) {
    roomId = await createRoom(state.newChat.persona);
    if (!roomId) return false;
    state.threads.set(roomId, beginThread());
    goTo({ kind: "room", roomId });
  }
  state.isAtEnd = true;
  sendMessage(roomId, content, onBusy);
  return true;
}

/**
 * What a send's stream says first: the question has its place, its reply runs or waits for its
 * turn.
 */
export function accepted(entry, { data }, events, abort) {
  const thread = state.threads.get(entry.roomId);
  if (!thread) {
    abort.abort();
    return;
  }
  const question = putMessage(thread, data.user_message);
  question.key = entry.id;
  const metadata = { ai_persona: findRoom(entry.roomId)?.ai_persona };
  if (!findMessage(thread, data.message_id) && !isGone(data.message_id)) {
    const { message_id, seq, timestamp } = question;
    putMessage(thread, {
      message_id: data.message_id,
      room_id: entry.roomId,
      seq: seq + 1,
      sender_type: "AI",
      content: "",
      timestamp,
      parent_message_id: message_id,
      metadata,
      is_streaming: true,
    });
  }
  changed();
  tellTabs(entry.roomId);
  // Its card has a new time, place and perhaps title; what fails here is read by the next poll.
  void refreshRooms().catch(reportFailure);
  followFrom(entry.roomId, data.message_id, abort, events);
}

/** End a reply that runs or waits; what it has said so far is kept. */
export async function stopReply(messageId) {
  const roomId = openRoomId();
  const thread = openThread();
  try {
    const { message } = await post("api/chat/message/stop", {
      room_id: roomId,
      message_id: messageId,
    });
    putMessage(thread, message);
    tellTabs(roomId);
    followRunning();
  } catch (error) {
    if (!endedBy(error) && !reportFailure(error)) showError(error);
    void refreshThread(roomId);
  }
  changed();
}

/** Take the message away now, tell the server when it can no longer be undone. */
export function deleteMessage(messageId) {
  const roomId = openRoomId();
  const thread = openThread();
  hold(messageId, "undo.message", async (options) => {
    await post("api/chat/message/delete", { room_id: roomId, message_id: messageId }, options);
    removeMessage(thread, messageId);
    tellTabs(roomId);
  });
}

/** Ask the question of a reply that went wrong once more, as a new message. */
export function askAgain(reply) {
  const question = findMessage(openThread(), reply.parent_message_id);
  if (question) void say(question.content);
}

function cardOf(roomId) {
  const room = findRoom(roomId);
  return room ? `${room.last_message_at} ${room.message_count}` : "";
}

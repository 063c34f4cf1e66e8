// The room list: reading, polling, creating, renaming, deleting.

import { post } from "./api.js";
import { reportFailure } from "./connection.js";
import { uuid7 } from "./ids.js";
import { goTo } from "./place.js";
import { endedBy } from "./session.js";
import { changed, openRoomId, state } from "./state.js";
import { tellTabs } from "./tabs.js";
import { showError } from "./toasts.js";
import { hold } from "./undo.js";

const PAGE_SIZE = 30;

/** Read the newest page and put it over what is known. Throws what the request threw. */
export async function refreshRooms() {
  const { session } = state;
  const page = await post("api/chat/rooms", { limit: PAGE_SIZE });
  if (state.session !== session) return;
  const { rooms } = state;
  const fresh = new Set(page.rooms.map((room) => room.room_id));
  const oldest = page.rooms.at(-1)?.last_message_at ?? "";
  // What should be on this page and is not has been deleted somewhere.
  const rest = page.has_more
    ? rooms.list.filter((room) => !fresh.has(room.room_id) && room.last_message_at < oldest)
    : [];
  rooms.list = [...page.rooms, ...rest].filter((room) => !state.gone.has(room.room_id));
  if (rooms.status !== "ready")
    Object.assign(rooms, { status: "ready", page: 1, hasMore: page.has_more });
  if (!page.has_more) rooms.hasMore = false;
  changed();
}

/** Read one page more. */
export async function loadMoreRooms() {
  const { rooms } = state;
  try {
    const page = await post("api/chat/rooms", { page: rooms.page + 1, limit: PAGE_SIZE });
    const known = new Set(rooms.list.map((room) => room.room_id));
    rooms.list = [
      ...rooms.list,
      ...page.rooms.filter((room) => !known.has(room.room_id) && !state.gone.has(room.room_id)),
    ];
    rooms.page += 1;
    rooms.hasMore = page.has_more;
  } catch (error) {
    failed(error);
  }
  changed();
}

export async function loadPersonas() {
  try {
    const { personas } = await post("api/chat/personas");
    state.personas = personas;
    state.newChat.persona ||= personas.find((persona) => persona.default)?.ai_persona ?? "";
    changed();
  } catch (error) {
    if (!reportFailure(error)) failed(error);
  }
}

/** The title of a persona; its id if it is not configured any more. "" for none. */
export function personaTitle(id) {
  return findPersona(id)?.title ?? id ?? "";
}

/**
 * The server takes the id of a persona in any case, so a room may have it in another one than the
 * list.
 */
export function findPersona(id) {
  return state.personas.find((persona) => persona.ai_persona.toUpperCase() === id?.toUpperCase());
}

/**
 * The new room's id, or null; `state.newChat.error` says why. Tried again, it makes the same room.
 */
export async function createRoom(persona) {
  const { newChat } = state;
  if (newChat.isBusy) return null;
  newChat.requestId ||= uuid7();
  Object.assign(newChat, { isBusy: true, error: null });
  changed();
  try {
    const { room } = await post("api/chat/room/create", {
      ai_persona: persona,
      client_request_id: newChat.requestId,
    });
    newChat.requestId = "";
    putRoom(room);
    tellTabs(room.room_id);
    return room.room_id;
  } catch (error) {
    newChat.error = error;
    reportFailure(error);
    // Another body needs another id.
    if (!error.isOutage) newChat.requestId = "";
    endedBy(error);
    return null;
  } finally {
    newChat.isBusy = false;
    changed();
  }
}

/** True when it was done. */
export async function renameRoom(roomId, title) {
  try {
    const answer = await post("api/chat/room/update", { room_id: roomId, new_title: title });
    const room = findRoom(roomId);
    if (room) room.title = answer.new_title;
    tellTabs(roomId);
    return true;
  } catch (error) {
    failed(error);
    return false;
  } finally {
    changed();
  }
}

/** Take the room away now, tell the server when it can no longer be undone. */
export function deleteRoom(roomId) {
  if (openRoomId() === roomId) goTo({ kind: "home" });
  hold(roomId, "undo.room", async (options) => {
    await post("api/chat/room/delete", { room_id: roomId }, options);
    state.threads.delete(roomId);
    state.rooms.list = state.rooms.list.filter((room) => room.room_id !== roomId);
    tellTabs(roomId);
  });
}

/** The room is not there (any more): forget it, and leave it if it is open. */
export function forgetRoom(roomId) {
  state.threads.delete(roomId);
  state.rooms.list = state.rooms.list.filter((room) => room.room_id !== roomId);
  if (openRoomId() === roomId) goTo({ kind: "home" }, { replace: true });
  changed();
}

export function findRoom(roomId) {
  return state.rooms.list.find((room) => room.room_id === roomId);
}

function putRoom(room) {
  state.rooms.list = [room, ...state.rooms.list.filter((known) => known.room_id !== room.room_id)];
}

function failed(error) {
  if (!endedBy(error)) showError(error);
  reportFailure(error);
}

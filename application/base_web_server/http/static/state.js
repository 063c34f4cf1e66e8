// All that the page knows, in one object. Code that changes it calls `changed`; the page is drawn
// from it.

/**
 * - session: null or {token, accountId, name}
 * - rooms: {list: ChatRoom[], hasMore, page, status: "new" | "ready"}
 * - place: what the address says: {kind: "home" | "new"} or {kind: "room", roomId}
 * - threads: room_id to the thread (thread.js) of each room that was opened
 * - outbox: messages that the server has not acknowledged (outbox.js)
 * - held: id to a delete that can still be undone (undo.js)
 * - gone: ids of rooms and messages whose delete was sent; a late answer must not bring them back
 * - connection: {isDown, retryAtMs}
 */
export const state = {
  session: null,
  signIn: { mode: "signup", isBusy: false, error: null, notice: "" },
  personas: [],
  rooms: emptyRooms(),
  place: { kind: "home" },
  threads: new Map(),
  outbox: [],
  held: new Map(),
  gone: new Set(),
  connection: { isDown: false, retryAtMs: 0 },
  newChat: { persona: "", isBusy: false, error: null, requestId: "" },
  isRenaming: false,
  isAtEnd: true,
  toasts: [],
  announcement: "",
};

export function emptyRooms() {
  return { list: [], hasMore: false, page: 1, status: "new" };
}

let draw = () => {};
let frame = 0;
let drawn = [];

/** `draw` is called at most once a frame after changes. */
export function onChange(callback) {
  draw = callback;
}

/** Something in `state` was changed. The promise is kept once that can be seen. */
export function changed() {
  frame ||= setTimeout(() => {
    frame = 0;
    const waiting = drawn;
    drawn = [];
    draw();
    for (const resolve of waiting) resolve();
  }, FRAME_MS);
  return new Promise((resolve) => drawn.push(resolve));
}

// A timer and not requestAnimationFrame, which stands still in tabs that are not looked at.
const FRAME_MS = 16;

/** The open room's id, or "". */
export function openRoomId() {
  return state.place.kind === "room" ? state.place.roomId : "";
}

export function openThread() {
  return state.threads.get(openRoomId());
}

/** Read aloud by screen readers, once. */
export function announce(text) {
  state.announcement = text;
  changed();
}

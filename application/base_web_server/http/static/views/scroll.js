// Keeps the reader's place: at the end while text arrives, or at the message that is being read
// while others load.

import { loadOlder } from "../conversation.js";
import { changed, openRoomId, openThread, state } from "../state.js";

const AT_END_PX = 48;
const NEAR_TOP_PX = 300;

let shownRoomId = "";
let knownTop = 0;

/** Call `draw` and put the list back to where the reader was. */
export function keepPlace(draw) {
  const isNew = shownRoomId !== openRoomId();
  const before = isNew ? null : list();
  // Scrolled up since: its event is still on its way, and to stay at the end would undo it.
  if (before && before.scrollTop < knownTop - 1) state.isAtEnd = isAtEnd(before);
  const anchor = before && !state.isAtEnd ? firstInSight(before) : null;
  const top = anchor?.getBoundingClientRect().top;
  draw();
  const after = list();
  if (!after) {
    shownRoomId = "";
    return;
  }
  shownRoomId = openRoomId();
  if (isNew || state.isAtEnd) after.scrollTop = after.scrollHeight;
  else if (anchor?.isConnected) after.scrollTop += anchor.getBoundingClientRect().top - top;
  knownTop = after.scrollTop;
  loadIfNearTop(after);
}

/** For the list's scroll event. */
export function watchScroll(event) {
  const box = event.currentTarget;
  knownTop = box.scrollTop;
  if (isAtEnd(box) !== state.isAtEnd) {
    state.isAtEnd = isAtEnd(box);
    changed();
  }
  loadIfNearTop(box);
}

export function scrollToEnd() {
  state.isAtEnd = true;
  list().focus({ preventScroll: true });
  changed();
}

function isAtEnd(box) {
  return box.scrollHeight - box.scrollTop - box.clientHeight < AT_END_PX;
}

function loadIfNearTop(box) {
  const thread = openThread();
  // After a failure only the button tries again.
  if (
    box.scrollTop < NEAR_TOP_PX &&
    thread?.status === "ready" &&
    thread.hasMore &&
    !thread.olderError
  )
    void loadOlder();
}

function list() {
  return document.getElementById("messages");
}

function firstInSight(box) {
  const top = box.getBoundingClientRect().top;
  return [...box.querySelectorAll(".message")].find(
    (message) => message.getBoundingClientRect().bottom > top,
  );
}

// Keeps the reader's place: at the end while text arrives, or at the message that is being read while others load.

import { loadOlder } from "../conversation.js";
import { changed, openRoomId, openThread, state } from "../state.js";

const AT_END_PX = 48;
const NEAR_TOP_PX = 300;

let shownRoomId = "";

/** Call `draw` and put the list back to where the reader was. */
export function keepPlace(draw) {
  const before = list();
  const anchor = before && !state.isAtEnd ? firstInSight(before) : null;
  const top = anchor?.getBoundingClientRect().top;
  draw();
  const after = list();
  if (!after) {
    shownRoomId = "";
    return;
  }
  const isNew = shownRoomId !== openRoomId();
  shownRoomId = openRoomId();
  if (isNew || state.isAtEnd) after.scrollTop = after.scrollHeight;
  else if (anchor?.isConnected) after.scrollTop += anchor.getBoundingClientRect().top - top;
  loadIfNearTop(after);
}

/** For the list's scroll event. */
export function watchScroll(event) {
  const box = event.currentTarget;
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < AT_END_PX;
  if (isAtEnd !== state.isAtEnd) {
    state.isAtEnd = isAtEnd;
    changed();
  }
  loadIfNearTop(box);
}

export function scrollToEnd() {
  state.isAtEnd = true;
  list().focus({ preventScroll: true });
  changed();
}

function loadIfNearTop(box) {
  const thread = openThread();
  // After a failure only the button tries again.
  if (box.scrollTop < NEAR_TOP_PX && thread?.status === "ready" && thread.hasMore && !thread.olderError)
    void loadOlder();
}

function list() {
  return document.getElementById("messages");
}

function firstInSight(box) {
  const top = box.getBoundingClientRect().top;
  return [...box.querySelectorAll(".message")].find((message) => message.getBoundingClientRect().bottom > top);
}

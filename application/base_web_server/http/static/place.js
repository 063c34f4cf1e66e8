// Where the reader is, kept in the address: #new, #room=ID, or nothing. So reload, back and
// bookmarks work.

import { changed, state } from "./state.js";

let onMove = () => {};

/** `moved` is called whenever the place has changed. */
export function watchPlace(moved) {
  onMove = moved;
  addEventListener("hashchange", take);
  state.place = read();
}

export function goTo(place, { replace = false } = {}) {
  const hash = hashOf(place);
  if (hash === location.hash) return;
  if (replace) history.replaceState(null, "", hash || location.pathname);
  else history.pushState(null, "", hash || location.pathname);
  take();
}

export function hashOf(place) {
  if (place.kind === "room") return `#room=${encodeURIComponent(place.roomId)}`;
  return place.kind === "new" ? "#new" : "";
}

function read() {
  const roomId = /^#room=([A-Za-z0-9._-]{1,64})$/.exec(location.hash)?.[1];
  if (roomId) return { kind: "room", roomId };
  return { kind: location.hash === "#new" ? "new" : "home" };
}

function take() {
  state.place = read();
  state.isRenaming = false;
  changed();
  onMove();
}

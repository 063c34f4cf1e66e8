// This browser's other tabs: they hear at once that a room has changed. Other browsers hear it from
// the poll.

import { state } from "./state.js";

const channel = new BroadcastChannel("chat.rooms");

/** `heard` is called with the id of a room that another tab of this account has changed. */
export function watchTabs(heard) {
  channel.addEventListener("message", ({ data }) => {
    if (data.accountId === state.session?.accountId) heard(data.roomId);
  });
}

export function tellTabs(roomId) {
  channel.postMessage({ accountId: state.session?.accountId, roomId });
}

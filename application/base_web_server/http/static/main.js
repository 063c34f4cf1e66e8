// Starts the page: wires what happens to what is done, and draws what is known.

import { commitAllOnLeave } from "./undo.js";
import { watchConnection, reportFailure } from "./connection.js";
import { accepted, enterPlace, refreshIfChanged, refreshThread } from "./conversation.js";
import { followRunning } from "./follower.js";
import { startLanguage, t } from "./i18n.js";
import { resumeOutbox, watchOutbox } from "./outbox.js";
import { goTo, watchPlace } from "./place.js";
import { loadPersonas, refreshRooms } from "./rooms.js";
import { endedBy, watchSession } from "./session.js";
import { announce, onChange, openRoomId, state } from "./state.js";
import { watchTabs } from "./tabs.js";
import { startTheme } from "./theme.js";
import { showError } from "./toasts.js";
import { drawPage } from "./views/page.js";

// How another browser's messages are noticed: one read of the room list, which names the rooms that
// have changed.
const POLL_MS = 4_000;

async function poll() {
  if (!state.session || document.hidden || state.connection.isDown) return;
  try {
    await refreshRooms();
    refreshIfChanged();
  } catch (error) {
    if (!endedBy(error) && !reportFailure(error)) showError(error);
  }
}

async function begin() {
  resumeOutbox();
  enterPlace();
  void loadPersonas();
  await poll();
  if (state.place.kind === "home" && state.rooms.status === "ready" && !state.rooms.list.length)
    goTo({ kind: "new" }, { replace: true });
}

function restored() {
  announce(t("connection.up"));
  if (!state.personas.length) void loadPersonas();
  void refreshThread();
  followRunning();
}

startTheme();
startLanguage();
onChange(drawPage);
watchPlace(enterPlace);
watchConnection(async () => {
  if (state.session) await refreshRooms();
}, restored);
watchOutbox(accepted);
watchTabs((roomId) => {
  void poll();
  if (roomId === openRoomId()) void refreshThread();
});
watchSession(begin);
commitAllOnLeave();
setInterval(poll, POLL_MS);
document.addEventListener("visibilitychange", () => {
  followRunning();
  void poll();
});
drawPage();

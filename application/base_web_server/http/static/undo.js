// Deletes that wait a few seconds: the thing is out of sight at once, the server hears of it when
// the time is over.

import { Code } from "./api.js";
import { pauseAfter, reportFailure } from "./connection.js";
import { t } from "./i18n.js";
import { endedBy } from "./session.js";
import { announce, changed, state } from "./state.js";
import { dismiss, showError, showToast } from "./toasts.js";

const HOLD_MS = 6_000;

/**
 * Hide `id` and run `commit(options)` after a while, unless it is undone; `options` are those of
 * api.post.
 */
export function hold(id, textKey, commit) {
  const toast = showToast({
    text: () => t(textKey),
    action: { label: () => t("undo"), run: () => undo(id) },
    lastsMs: HOLD_MS,
  });
  const timer = setTimeout(() => void settle(id), HOLD_MS);
  state.held.set(id, { commit, timer, toast });
  announce(t(textKey));
}

/** The page goes away: what was deleted is deleted. */
export function commitAllOnLeave() {
  addEventListener("pagehide", () => {
    for (const [id, { commit, timer }] of state.held) {
      clearTimeout(timer);
      void commit({ keepalive: true }).catch(() => {});
      state.held.delete(id);
      state.gone.add(id);
    }
  });
}

function undo(id) {
  const held = state.held.get(id);
  if (!held) return;
  clearTimeout(held.timer);
  dismiss(held.toast);
  state.held.delete(id);
  announce(t("undone"));
}

async function settle(id) {
  const { commit, toast } = state.held.get(id);
  dismiss(toast);
  state.gone.add(id);
  state.held.delete(id);
  for (let attempt = 0; ; attempt++) {
    try {
      await commit({});
      break;
    } catch (error) {
      if (error.code === Code.ROOM_NOT_FOUND || error.code === Code.MESSAGE_NOT_FOUND) break;
      if (endedBy(error) || !reportFailure(error)) {
        state.gone.delete(id);
        showError(error, "undo.failed");
        break;
      }
      await pauseAfter(error, attempt);
    }
  }
  changed();
}

// Short notes at the edge of the page.

import { errorText } from "./errors.js";
import { t } from "./i18n.js";
import { announce, changed, state } from "./state.js";

const ERROR_LASTS_MS = 10_000;

let nextId = 1;

/**
 * Show `text()` for `lastsMs`, with an `action` {label(), run} if given. Returns what `dismiss`
 * takes.
 */
export function showToast({ text, action = null, lastsMs }) {
  const id = nextId++;
  const timer = setTimeout(() => dismiss(id), lastsMs);
  state.toasts.push({ id, text, action, timer });
  changed();
  return id;
}

/** Say what failed and what to do. An outage is not shown: the connection's line says it. */
export function showError(error, leadKey = "") {
  if (error.isOutage) return;
  const text = () => (leadKey ? `${t(leadKey)} ${errorText(error)}` : errorText(error));
  if (state.toasts.some((toast) => toast.text() === text())) return;
  showToast({ text, lastsMs: ERROR_LASTS_MS });
  announce(text());
}

export function dismiss(id) {
  const toast = state.toasts.find((known) => known.id === id);
  if (!toast) return;
  clearTimeout(toast.timer);
  state.toasts = state.toasts.filter((known) => known !== toast);
  changed();
}

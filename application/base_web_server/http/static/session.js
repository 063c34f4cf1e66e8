// Who is logged in. The token is kept in localStorage, so that a reload and a second tab are logged
// in too.

import { ApiError, Code, post, useToken } from "./api.js";
import { readStored, removeStored, writeStored } from "./storage.js";
import { changed, emptyRooms, state } from "./state.js";

const KEY = "chat.session";

let onBegin = () => {};

/**
 * `begin` is called whenever somebody is logged in: at the start, after the form, or in another
 * tab.
 */
export function watchSession(begin) {
  onBegin = begin;
  addEventListener("storage", (event) => {
    if (event.key === KEY || event.key === null) take(readStored(KEY));
  });
  take(readStored(KEY));
}

/** Sign up if asked to, then log in. What failed is in `state.signIn.error`. */
export async function enter({ isNew, accountId, password }) {
  const form = state.signIn;
  if (form.isBusy) return;
  Object.assign(form, { isBusy: true, error: null });
  changed();
  try {
    if (isNew) await post("api/account/signup", { account_id: accountId, password });
    const answer = await post("api/account/login", { account_id: accountId, password });
    const { account_id, nickname } = answer.account;
    const session = {
      token: answer.accessToken,
      accountId: account_id,
      name: nickname || account_id,
    };
    writeStored(KEY, session);
    take(session);
  } catch (error) {
    form.error = error;
  } finally {
    form.isBusy = false;
    changed();
  }
}

/** Log out here, in this browser's other tabs, and on the server. */
export async function leave() {
  const ended = post("api/account/logout");
  end();
  // A session that the server does not know is as good as ended; what else fails leaves it to end
  // by itself.
  await ended.catch(() => {});
}

/** Whether `error` means that the session is over; if so, the form is shown and says it. */
export function endedBy(error) {
  if (!(error instanceof ApiError) || error.code !== Code.SESSION_MISSING) return false;
  if (state.session) end("signIn.expired");
  return true;
}

function end(notice = "") {
  removeStored(KEY);
  take(null);
  state.signIn.notice = notice;
}

function take(session) {
  if (session?.token === state.session?.token) return;
  state.session = session;
  useToken(session?.token ?? "");
  Object.assign(state.signIn, {
    mode: session ? "login" : state.signIn.mode,
    error: null,
    notice: "",
  });
  state.rooms = emptyRooms();
  state.threads.clear();
  state.outbox = [];
  changed();
  if (session) onBegin();
}

// Whether the server can be reached. One place notices, says so, tries again with growing pauses,
// and wakes who waits.

import { changed, state } from "./state.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
const LONGEST_PAUSE_WHEN_UP_MS = 2_000;

let probe = async () => {};
let onRestored = () => {};
let pauseMs = FIRST_PAUSE_MS;
let timer = 0;
let isTrying = false;
let waiting = [];

/** `tryOut` throws while the server cannot be reached; `restored` is called when it can again. */
export function watchConnection(tryOut, restored) {
  probe = tryOut;
  onRestored = restored;
  addEventListener("online", tryNow);
}

/** Tell of a failed request; true when it was one that waiting for the server helps. */
export function reportFailure(error) {
  if (!error.isOutage) return false;
  if (!state.connection.isDown) {
    state.connection.isDown = true;
    pauseMs = FIRST_PAUSE_MS;
    schedule(error.retryAfterS);
  }
  return true;
}

/** Do not wait for the pause to end. */
export function tryNow() {
  if (!state.connection.isDown || isTrying) return;
  clearTimeout(timer);
  void attempt();
}

/** Kept as soon as the server is not known to be away. */
export function whenUp() {
  if (!state.connection.isDown) return Promise.resolve();
  return new Promise((resolve) => waiting.push(resolve));
}

/** Kept when it makes sense to try again what has failed with `error`, `attempt` times before. */
export async function pauseAfter(error, attempt) {
  await whenUp();
  const longestMs = error.isOutage ? LONGEST_PAUSE_WHEN_UP_MS : LONGEST_PAUSE_MS;
  const ms = Math.min(longestMs, FIRST_PAUSE_MS * 2 ** attempt);
  await new Promise((resolve) =>
    setTimeout(resolve, jittered(ms, error.isOutage ? null : error.retryAfterS)),
  );
}

// No two clients wait equally long, so they do not all come back at once.
function jittered(ms, retryAfterS) {
  return Math.max(ms, (retryAfterS ?? 0) * 1000) * (1 + Math.random() / 4);
}

function schedule(retryAfterS = null) {
  const ms = jittered(pauseMs, retryAfterS);
  pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
  state.connection.retryAtMs = Date.now() + ms;
  timer = setTimeout(attempt, ms);
  changed();
}

async function attempt() {
  isTrying = true;
  state.connection.retryAtMs = 0;
  changed();
  try {
    await probe();
  } catch (error) {
    if (error.isOutage) {
      schedule(error.retryAfterS);
      return;
    }
  } finally {
    isTrying = false;
  }
  state.connection.isDown = false;
  changed();
  for (const resolve of waiting.splice(0)) resolve();
  onRestored();
}

// localStorage as JSON. A browser may refuse it (private mode, full): then the tab's memory serves,
// and nothing outlives it.

const memory = new Map();

export function readStored(key) {
  try {
    return JSON.parse(localStorage.getItem(key) ?? memory.get(key) ?? "null");
  } catch {
    return JSON.parse(memory.get(key) ?? "null");
  }
}

export function writeStored(key, value) {
  const text = JSON.stringify(value);
  try {
    localStorage.setItem(key, text);
  } catch {
    memory.set(key, text);
  }
}

export function removeStored(key) {
  memory.delete(key);
  try {
    localStorage.removeItem(key);
  } catch {
    // It is not there.
  }
}

/** All keys that begin with `prefix`. */
export function storedKeys(prefix) {
  const keys = [...memory.keys()];
  try {
    keys.push(...Object.keys(localStorage));
  } catch {
    // Only the memory's.
  }
  return keys.filter((key) => key.startsWith(prefix));
}

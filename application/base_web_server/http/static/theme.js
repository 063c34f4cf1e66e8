// Dark or light: the system's, or the one chosen here.

import { changed } from "./state.js";
import { readStored, writeStored } from "./storage.js";

const KEY = "chat.theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

export function startTheme() {
  const chosen = readStored(KEY);
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  systemIsDark.addEventListener("change", changed);
}

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemIsDark.matches;
}

export function toggleTheme() {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  writeStored(KEY, next);
  changed();
}

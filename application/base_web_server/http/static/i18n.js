// Texts in the reader's language: the browser's, or the one chosen here.

import en from "./i18n/en.js";
import ko from "./i18n/ko.js";
import { changed } from "./state.js";
import { readStored, writeStored } from "./storage.js";

const KEY = "chat.language";
const TEXTS = { en, ko };

let language = "en";
let formats = {};

export function startLanguage() {
  const wanted = [readStored(KEY), ...navigator.languages].filter((tag) => typeof tag === "string");
  use(wanted.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in TEXTS) ?? "en");
}

export function currentLanguage() {
  return language;
}

export function toggleLanguage() {
  use(language === "en" ? "ko" : "en");
  writeStored(KEY, language);
  changed();
}

/** The text of `key` with its {names} filled in. */
export function t(key, vars = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => vars[name]);
}

/** The language of a text, as far as its line breaks depend on it; else that of the page. */
export function languageOf(text) {
  if (/\p{sc=Hangul}/u.test(text)) return "ko";
  if (/[\p{sc=Hiragana}\p{sc=Katakana}]/u.test(text)) return "ja";
  return /\p{sc=Han}/u.test(text) ? "zh" : language;
}

export function hasText(key) {
  return key in TEXTS[language];
}

/** A time of today as a clock, another as a short date. */
export function shortTime(iso, now = new Date()) {
  const date = new Date(iso);
  return (date.toDateString() === now.toDateString() ? formats.clock : formats.day).format(date);
}

export function clockTime(iso) {
  return formats.clock.format(new Date(iso));
}

export function longDate(iso) {
  return formats.date.format(new Date(iso));
}

function use(tag) {
  language = tag;
  document.documentElement.lang = tag;
  formats = {
    clock: new Intl.DateTimeFormat(tag, { hour: "numeric", minute: "2-digit" }),
    day: new Intl.DateTimeFormat(tag, { month: "short", day: "numeric" }),
    date: new Intl.DateTimeFormat(tag, {
      weekday: "long",
      year: "numeric",
      month: "long",
      day: "numeric",
    }),
  };
}

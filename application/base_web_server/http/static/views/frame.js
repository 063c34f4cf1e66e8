// What stands around every view: the brand, the reader's preferences, the connection's line, notes.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { tryNow } from "../connection.js";
import { currentLanguage, languageOf, t, toggleLanguage } from "../i18n.js";
import { changed, state } from "../state.js";
import { isDark, toggleTheme } from "../theme.js";
import { dismiss } from "../toasts.js";
import { icons } from "./icons.js";

export function brand() {
  return html`<span class="brand"
    ><img src="static/icon.svg" alt="" width="24" height="24" />${t("app.name")}</span
  >`;
}

export function preferences() {
  const theme = t(isDark() ? "theme.light" : "theme.dark");
  return html`
    <button
      type="button"
      class="plain"
      lang=${currentLanguage() === "en" ? "ko" : "en"}
      @click=${toggleLanguage}
    >
      ${t("language.other")}
    </button>
    <button
      type="button"
      class="plain square"
      aria-label=${theme}
      title=${theme}
      @click=${toggleTheme}
    >
      ${isDark() ? icons.sun : icons.moon}
    </button>
  `;
}

export function connectionLine() {
  const { isDown, retryAtMs } = state.connection;
  const seconds = Math.max(1, Math.ceil((retryAtMs - Date.now()) / 1000));
  const next = retryAtMs ? t("connection.retryIn", { seconds }) : t("connection.retrying");
  return html`
    <div class="connection" role="status" data-down=${isDown}>
      ${
        isDown
          ? html`
              <strong>${t("connection.down")}</strong><span aria-hidden="true">${next}</span>
              <button type="button" class="link" @click=${tryNow}>${t("connection.now")}</button>
            `
          : nothing
      }
    </div>
  `;
}

function actionButton({ run, label }) {
  return html`<button type="button" class="link undo" @click=${run}>${label()}</button>`;
}

export function toastStack() {
  return html`
    <section class="toasts" aria-label=${t("toasts")}>
      ${repeat(
        state.toasts,
        (toast) => toast.id,
        ({ id, text, action }) => html`
          <div class="toast">
            <span lang=${languageOf(text())}>${text()}</span>
            ${action ? actionButton(action) : nothing}
            <button
              type="button"
              class="plain square"
              aria-label=${t("close")}
              @click=${() => dismiss(id)}
            >
              ${icons.close}
            </button>
          </div>
        `,
      )}
    </section>
  `;
}

/** Run `remove`; after a keyboard action the focus is on the undo button. */
export async function thenUndo(event, remove) {
  const isByKeyboard = event.detail === 0;
  remove();
  await changed();
  if (isByKeyboard) [...document.querySelectorAll(".undo")].at(-1)?.focus();
}

export function announcer() {
  return html`<div class="visually-hidden" role="status" aria-live="polite">
    ${state.announcement}
  </div>`;
}

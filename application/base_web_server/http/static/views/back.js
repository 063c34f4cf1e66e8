// On a phone the list and the chat are two places; this leads from one to the other.

import { html } from "../vendor/lit-html/lit-html.js";
import { t } from "../i18n.js";
import { goTo } from "../place.js";
import { icons } from "./icons.js";

export function backButton() {
  return html`
    <button
      type="button"
      class="plain square back"
      aria-label=${t("rooms.back")}
      @click=${() => goTo({ kind: "home" })}
    >
      ${icons.back}
    </button>
  `;
}

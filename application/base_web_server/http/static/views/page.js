// The whole page, drawn from the state.

import { html, render } from "../vendor/lit-html/lit-html.js";
import { t } from "../i18n.js";
import { findRoom } from "../rooms.js";
import { changed, openRoomId, state } from "../state.js";
import { announcer, connectionLine, toastStack } from "./frame.js";
import { newChatView } from "./new_chat.js";
import { roomView } from "./room.js";
import { keepPlace } from "./scroll.js";
import { sidebarView, titleOf } from "./sidebar.js";
import { signInView } from "./sign_in.js";

const touches = matchMedia("(pointer: coarse)");

let countdown = 0;

export function drawPage() {
  const roomId = openRoomId();
  document.title =
    state.session && roomId ? `${titleOf(findRoom(roomId))} · ${t("app.name")}` : t("app.name");
  const focused = document.activeElement;
  keepPlace(() => render(page(), document.getElementById("page")));
  // If the focused element is gone, focus the composer. (On a phone that would open the keyboard.)
  if (!focused.isConnected && !touches.matches)
    document.getElementById("composer")?.focus({ preventScroll: true });
  clearTimeout(countdown);
  // The seconds to the next attempt are shown.
  if (state.connection.isDown) countdown = setTimeout(changed, 1000);
}

function page() {
  return html`
    ${connectionLine()}
    ${
      state.session
        ? html`
            <a class="skip" href="#composer" @click=${skip}>${t("app.skip")}</a>
            <main class="chat" data-place=${state.place.kind}>
              ${sidebarView()} ${state.place.kind === "room" ? roomView() : newChatView()}
            </main>
          `
        : signInView()
    }
    ${toastStack()} ${announcer()}
  `;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("composer")?.focus();
}

// The list of chats, and what belongs to the account.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { shortTime, t } from "../i18n.js";
import { goTo, hashOf } from "../place.js";
import { loadMoreRooms, personaTitle } from "../rooms.js";
import { leave } from "../session.js";
import { openRoomId, state } from "../state.js";
import { brand, preferences } from "./frame.js";
import { icons } from "./icons.js";

export function sidebarView() {
  return html`
    <div class="sidebar">
      <div class="sidebar-top">${brand()}</div>
      <a
        class="button primary wide"
        href="#new"
        aria-current=${state.place.kind === "new" ? "page" : nothing}
      >
        ${icons.plus}${t("rooms.new")}
      </a>
      <h1 class="list-title">${t("rooms.title")}</h1>
      <nav class="rooms" aria-label=${t("rooms.title")}>${list()}</nav>
      <div class="account">
        <span class="account-name" title=${state.session.accountId}>${state.session.name}</span>
        ${preferences()}
        <button
          type="button"
          class="plain square"
          aria-label=${t("account.leave")}
          title=${t("account.leave")}
          @click=${leaveAll}
        >
          ${icons.leave}
        </button>
      </div>
    </div>
  `;
}

/** The title to show: the server's own for an untitled room is said in the reader's language. */
export function titleOf(room) {
  return !room?.title || room.title === "New chat" ? t("room.untitled") : room.title;
}

function list() {
  const { rooms } = state;
  const shown = rooms.list.filter(
    (room) => !state.held.has(room.room_id) && !state.gone.has(room.room_id),
  );
  if (rooms.status === "new") return html`<p class="quiet">${t("rooms.loading")}</p>`;
  if (!shown.length) return html`<p class="quiet">${t("rooms.empty")}</p>`;
  return html`
    <ul>
      ${repeat(shown, (room) => room.room_id, card)}
    </ul>
    ${rooms.hasMore ? moreButton() : nothing}
  `;
}

function moreButton() {
  return html`<button type="button" class="plain wide" @click=${loadMoreRooms}>
    ${t("rooms.more")}
  </button>`;
}

function card(room) {
  const isOpen = room.room_id === openRoomId();
  return html`
    <li>
      <a
        class="card"
        href=${hashOf({ kind: "room", roomId: room.room_id })}
        aria-current=${isOpen ? "page" : nothing}
      >
        <span class="card-title">${titleOf(room)}</span>
        <time class="card-time" datetime=${room.last_message_at}
          >${shortTime(room.last_message_at)}</time
        >
        <span class="card-persona">${personaTitle(room.ai_persona)}</span>
      </a>
    </li>
  `;
}

function leaveAll() {
  goTo({ kind: "home" });
  void leave();
}

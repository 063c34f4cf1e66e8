// An open chat: its title, its messages, the composer.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { guard } from "../vendor/lit-html/directives/guard.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { loadOlder, refreshThread } from "../conversation.js";
import { copy } from "../clipboard.js";
import { errorText } from "../errors.js";
import { currentLanguage, longDate, t } from "../i18n.js";
import { hasHighlighter } from "../markdown.js";
import { unsentOf } from "../outbox.js";
import { deleteRoom, findPersona, findRoom, personaTitle, renameRoom } from "../rooms.js";
import { announce, changed, openRoomId, openThread, state } from "../state.js";
import { runningReply } from "../thread.js";
import { backButton } from "./back.js";
import { composerView } from "./composer.js";
import { thenUndo } from "./frame.js";
import { icons } from "./icons.js";
import { messageView, unsentView } from "./message.js";
import { demoNotice } from "./new_chat.js";
import { scrollToEnd, watchScroll } from "./scroll.js";
import { titleOf } from "./sidebar.js";

export function roomView() {
  const roomId = openRoomId();
  const room = findRoom(roomId);
  return html`
    <section class="room">
      <header class="room-top">
        ${backButton()}${state.isRenaming ? renaming(room) : heading(room)}
      </header>
      <div
        class="scroll"
        id="messages"
        tabindex="0"
        role="region"
        aria-label=${t("room.messages")}
        @scroll=${watchScroll}
        @click=${copyCode}
      >
        <div class="messages column">${messages(roomId, room)}</div>
      </div>
      <div class="column latest">
        ${
          state.isAtEnd
            ? nothing
            : html`<button type="button" class="pill" @click=${scrollToEnd}>
                ${icons.down}${t("room.latest")}
              </button>`
        }
      </div>
      ${composerView()}
    </section>
  `;
}

function heading(room) {
  const persona = findPersona(room?.ai_persona);
  const isDemo = persona?.model === "demo" && persona.ai_persona !== "DEMO";
  const demo = isDemo ? ` · ${t("demo.tag")}` : "";
  return html`
    <h1 class="room-title">${titleOf(room)}</h1>
    ${room ? html`<span class="tag">${personaTitle(room.ai_persona)}${demo}</span>` : nothing}
    <span class="spring"></span>
    ${
      room
        ? html`
            <button
              type="button"
              class="plain square"
              id="rename"
              aria-label=${t("room.rename")}
              title=${t("room.rename")}
              @click=${rename}
            >
              ${icons.pencil}
            </button>
            <button
              type="button"
              class="plain square"
              aria-label=${t("room.delete")}
              title=${t("room.delete")}
              @click=${(event) => thenUndo(event, () => deleteRoom(room.room_id))}
            >
              ${icons.trash}
            </button>
          `
        : nothing
    }
  `;
}

function renaming(room) {
  return html`
    <h1 class="visually-hidden">${titleOf(room)}</h1>
    <form
      class="rename"
      @submit=${(event) => saveTitle(event, room)}
      @keydown=${(event) => event.key === "Escape" && endRename()}
    >
      <input
        id="title"
        name="title"
        required
        maxlength="200"
        aria-label=${t("room.rename.label")}
        .value=${titleOf(room)}
      />
      <button class="primary">${t("room.rename.save")}</button>
      <button type="button" class="plain" @click=${endRename}>${t("room.rename.cancel")}</button>
    </form>
  `;
}

async function rename() {
  state.isRenaming = true;
  await changed();
  document.getElementById("title").select();
}

async function saveTitle(event, room) {
  event.preventDefault();
  const title = new FormData(event.currentTarget).get("title").trim();
  if (title && (title === titleOf(room) || (await renameRoom(room.room_id, title))))
    await endRename();
}

async function endRename() {
  state.isRenaming = false;
  await changed();
  document.getElementById("rename")?.focus();
}

function messages(roomId, room) {
  const thread = openThread();
  if (!thread || thread.status === "new" || thread.status === "loading")
    return html`<p class="quiet">${t("room.loading")}</p>`;
  if (thread.status === "failed") {
    return html`
      <p class="quiet">${t("room.failed")} ${errorText(thread.error)}</p>
      <button type="button" @click=${() => refreshThread(roomId)}>${t("try")}</button>
    `;
  }
  const shown = thread.messages.filter(
    (message) => !state.held.has(message.message_id) && !state.gone.has(message.message_id),
  );
  const unsent = unsentOf(roomId);
  if (!shown.length && !unsent.length && !thread.hasMore)
    return html`<p class="quiet">${t("room.empty")}</p>
      ${demoNotice(findPersona(room?.ai_persona))}`;
  const runningId = runningReply(thread)?.message_id;
  return html`
    ${olderMessages(thread)}
    ${repeat(
      shown,
      (message) => message.key ?? message.message_id,
      (message, index) => {
        const isQueued = message.is_streaming && message.message_id !== runningId;
        const day = dayOf(message) === dayOf(shown[index - 1]) ? "" : dayOf(message);
        // A reply may be another persona's than the room's.
        const author = personaTitle(message.metadata?.ai_persona ?? room?.ai_persona);
        // Of hundreds of messages one has changed; the others are not even looked at.
        const known = [
          message,
          message.content,
          isQueued,
          day,
          author,
          currentLanguage(),
          hasHighlighter(),
        ];
        return guard(known, () => [dayView(message, day), messageView(message, isQueued, author)]);
      },
    )}
    ${repeat(unsent, (entry) => entry.id, unsentView)}
  `;
}

function olderMessages(thread) {
  if (!thread.hasMore) return html`<p class="quiet begin">${t("room.begin")}</p>`;
  const text = thread.isLoadingOlder
    ? "room.older.loading"
    : thread.olderError
      ? "room.older.failed"
      : "room.older";
  return html`<button
    type="button"
    class="plain older"
    ?disabled=${thread.isLoadingOlder}
    @click=${loadOlder}
  >
    ${t(text)}
  </button>`;
}

function dayView(message, day) {
  if (!day) return nothing;
  return html`<p class="day">
    <time datetime=${message.timestamp}>${longDate(message.timestamp)}</time>
  </p>`;
}

const days = new WeakMap();

/** The reader's day on which the message was sent, as text. */
function dayOf(message) {
  if (!message) return "";
  if (!days.has(message)) days.set(message, new Date(message.timestamp).toDateString());
  return days.get(message);
}

// The buttons are part of the replies' HTML (markdown.js).
async function copyCode(event) {
  const button = event.target.closest(".copy-code");
  if (!button) return;
  const isDone = await copy(button.closest(".code").querySelector("code").textContent);
  announce(t(isDone ? "copied" : "copy.failed"));
  if (!isDone) return;
  button.textContent = t("copied");
  setTimeout(() => (button.textContent = t("copy")), 1500);
}

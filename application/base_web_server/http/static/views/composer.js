// Where messages are written. What is written stays with its room until it is sent, through a
// reload too.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { live } from "../vendor/lit-html/directives/live.js";
import { say, stopReply } from "../conversation.js";
import { t } from "../i18n.js";
import { changed, openRoomId, openThread, state } from "../state.js";
import { readStored, removeStored, writeStored } from "../storage.js";
import { runningReply } from "../thread.js";
import { icons } from "./icons.js";

const LONGEST = 16_000;
const COMMAND = navigator.platform.startsWith("Mac") ? "⌘" : "Ctrl";
const touches = matchMedia("(pointer: coarse)");

export function composerView() {
  const running = openThread() && runningReply(openThread());
  const over = [...draft()].length - LONGEST;
  return html`
    <form class="composer column" @submit=${submit}>
      <div class="composer-box">
        <label class="visually-hidden" for="composer">${t("compose.label")}</label>
        <textarea
          id="composer"
          rows=${Math.min(8, draft().split("\n").length)}
          placeholder=${t("compose.placeholder")}
          aria-describedby="composer-hint"
          .value=${live(draft())}
          @input=${edit}
          @keydown=${key}
        ></textarea>
        ${
          running
            ? html`
                <button
                  type="button"
                  class="square round stop"
                  aria-label=${t("compose.stop")}
                  title=${t("compose.stop")}
                  @click=${() => stopReply(running.message_id)}
                >
                  ${icons.stop}
                </button>
              `
            : nothing
        }
        ${
          running && draft().trim()
            ? html`
                <button
                  type="button"
                  class="square round"
                  aria-label=${t("compose.interrupt")}
                  title=${`${t("compose.interrupt")} (${COMMAND}+Enter)`}
                  ?disabled=${over > 0}
                  @click=${() => send("interrupt")}
                >
                  ${icons.interrupt}
                </button>
              `
            : nothing
        }
        <button
          class="primary square round"
          aria-label=${t("compose.send")}
          title=${t("compose.send")}
          ?disabled=${!draft().trim() || over > 0 || state.newChat.isBusy}
        >
          ${icons.send}
        </button>
      </div>
      <p class="hint" id="composer-hint">
        ${
          over > 0
            ? html`<span class="problem">${t("compose.tooLong", { over })}</span>`
            : html`<span class="keys">${keysHint(running)}</span>`
        }
      </p>
    </form>
  `;
}

export function focusComposer() {
  document.getElementById("composer")?.focus();
}

function draftKey() {
  return `chat.draft.${state.session.accountId}.${openRoomId() || "new"}`;
}

function draft() {
  return readStored(draftKey()) ?? "";
}

function edit(event) {
  writeStored(draftKey(), event.currentTarget.value);
  changed();
}

function key(event) {
  // Enter that ends a Korean syllable belongs to the input method.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  if (touches.matches) return;
  event.preventDefault();
  void send(event.ctrlKey || event.metaKey ? "interrupt" : "queue");
}

function submit(event) {
  event.preventDefault();
  void send("queue");
}

async function send(onBusy) {
  const content = draft();
  if (!content.trim() || [...content].length > LONGEST || state.newChat.isBusy) return;
  const from = draftKey();
  // A new room may fail to be made: then the text is still here.
  if (await say(content, onBusy)) removeStored(from);
  await changed();
  focusComposer();
}

function keysHint(running) {
  return running ? t("compose.hint.running", { command: COMMAND }) : t("compose.hint");
}

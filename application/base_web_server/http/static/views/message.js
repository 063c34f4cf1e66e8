// One message: what was asked, what was answered, what is still on its way.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { copy } from "../clipboard.js";
import { askAgain, deleteMessage, stopReply } from "../conversation.js";
import { errorText } from "../errors.js";
import { clockTime, languageOf, t } from "../i18n.js";
import { safeBlocks } from "../markdown.js";
import { discardMessage, retryMessage } from "../outbox.js";
import { announce } from "../state.js";
import { showToast } from "../toasts.js";
import { thenUndo } from "./frame.js";
import { icons } from "./icons.js";

/**
 * A message that the server has. `isQueued`: a reply that waits for the one before it; `author`: a
 * reply's persona.
 */
export function messageView(message, isQueued, author) {
  return message.sender_type === "USER" ? question(message) : reply(message, isQueued, author);
}

/** A message that the server has not acknowledged. */
export function unsentView(entry) {
  return html`
    <article class="message mine unsent" data-status=${entry.status}>
      <h2 class="visually-hidden">${t("message.you")}</h2>
      <div class="bubble" lang=${languageOf(entry.content)}>${entry.content}</div>
      <div class="foot">
        <span role="status">${unsentText(entry)}</span>
        ${
          entry.status === "failed"
            ? html`<button type="button" class="link" @click=${() => retryMessage(entry)}>
                ${icons.retry}${t("message.retry")}
              </button>`
            : nothing
        }
        ${
          entry.status === "sending"
            ? nothing
            : html`<button type="button" class="link" @click=${() => discardMessage(entry)}>
                ${t("message.discard")}
              </button>`
        }
      </div>
    </article>
  `;
}

function unsentText({ status, error }) {
  if (status === "sending") return t("message.sending");
  if (status === "failed") return `${t("message.failed")} ${errorText(error)}`;
  return error.isOutage
    ? t("message.waiting")
    : t("message.waiting.limit", { seconds: Math.ceil(error.retryAfterS ?? 1) });
}

function question(message) {
  return html`
    <article class="message mine">
      <h2 class="visually-hidden">${t("message.you")}</h2>
      <div class="bubble" lang=${languageOf(message.content)}>${message.content}</div>
      <div class="foot">
        <span class="tools">${tools(message)}</span>
        <span class="sent" title=${t("message.sent")}
          >${icons.check}<span class="visually-hidden">${t("message.sent")}</span></span
        >
        <time datetime=${message.timestamp}>${clockTime(message.timestamp)}</time>
      </div>
    </article>
  `;
}

function reply(message, isQueued, author) {
  const name = message.sender_type === "AI" ? author || t("message.ai") : t("message.system");
  return html`
    <article
      class="message theirs"
      aria-busy=${message.is_streaming}
      data-streaming=${message.is_streaming}
    >
      <h2 class="author" lang=${languageOf(name)}>${name}</h2>
      <div class="prose" lang=${languageOf(message.content)}>${text(message, isQueued)}</div>
      ${message.is_streaming ? nothing : outcome(message)}
      <div class="foot">
        <time datetime=${message.timestamp}>${clockTime(message.timestamp)}</time>
        <span class="tools"
          >${isQueued ? stopButton(message) : message.is_streaming ? nothing : tools(message)}</span
        >
      </div>
    </article>
  `;
}

function text(message, isQueued) {
  if (message.content)
    return safeBlocks(message.content).map(
      (block) => html`<div class="block" .innerHTML=${block}></div>`,
    );
  if (!message.is_streaming) return nothing;
  return isQueued
    ? html`<p class="quiet">${t("message.queued")}</p>`
    : html`<p class="quiet thinking">${t("message.thinking")}</p>`;
}

function outcome(message) {
  const reason = message.metadata?.finish_reason;
  if (!["stopped", "interrupted", "length", "error"].includes(reason)) return nothing;
  const says = t(message.error?.code === "AI_TIMED_OUT" ? "error.1021" : `message.${reason}`);
  const canAsk = reason === "interrupted" || reason === "error";
  return html`
    <p class="outcome" data-reason=${reason}>
      <span>${says}</span>
      ${canAsk ? askAgainButton(message) : nothing}
    </p>
  `;
}

function askAgainButton(message) {
  return html`<button type="button" class="link" @click=${() => askAgain(message)}>
    ${icons.retry}${t("message.again")}
  </button>`;
}

function tools(message) {
  return html`
    <button
      type="button"
      class="plain square small"
      aria-label=${t("message.copy")}
      title=${t("message.copy")}
      @click=${() => copyMessage(message)}
    >
      ${icons.copy}
    </button>
    <button
      type="button"
      class="plain square small"
      aria-label=${t("message.delete")}
      title=${t("message.delete")}
      @click=${(event) => thenUndo(event, () => deleteMessage(message.message_id))}
    >
      ${icons.trash}
    </button>
  `;
}

function stopButton(message) {
  return html`
    <button
      type="button"
      class="plain square small"
      aria-label=${t("message.stop")}
      title=${t("message.stop")}
      @click=${() => stopReply(message.message_id)}
    >
      ${icons.stop}
    </button>
  `;
}

async function copyMessage(message) {
  const key = (await copy(message.content)) ? "copied" : "copy.failed";
  showToast({ text: () => t(key), lastsMs: 2_500 });
  announce(t(key));
}

// A chat that is not there yet: who shall answer, what to begin with. Its room is made with the
// first message.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { say } from "../conversation.js";
import { errorText } from "../errors.js";
import { languageOf, t } from "../i18n.js";
import { changed, state } from "../state.js";
import { backButton } from "./back.js";
import { composerView } from "./composer.js";

const SUGGESTIONS = ["new.suggest.1", "new.suggest.2", "new.suggest.3"];

export function newChatView() {
  const { newChat, personas } = state;
  return html`
    <section class="room">
      <header class="room-top">
        ${backButton()}<span class="room-title">${t("rooms.new")}</span>
      </header>
      <div class="scroll">
        <div class="new-chat column">
          <h1>${t("new.title")}</h1>
          <fieldset class="personas">
            <legend>${t("new.persona")}</legend>
            ${personas.map(personaCard)}
          </fieldset>
          ${demoNotice(personas.find((persona) => persona.ai_persona === newChat.persona))}
          <h2>${t("new.suggest")}</h2>
          <div class="suggestions">
            ${SUGGESTIONS.map(
              (key) => html`
                <button type="button" ?disabled=${newChat.isBusy} @click=${() => say(t(key))}>
                  ${t(key)}
                </button>
              `,
            )}
          </div>
        </div>
      </div>
      <p class="problem column" role="alert">
        ${newChat.error ? errorText(newChat.error) : nothing}
      </p>
      ${composerView()}
    </section>
  `;
}

/** What to do to get real answers, if `persona` is answered by the demo. */
export function demoNotice(persona) {
  if (persona?.model !== "demo") return nothing;
  return html`
    <aside class="notice">
      <strong>${t("demo.title")}</strong>
      <p>${t("demo.text")}</p>
      <pre tabindex="0"><code>OPENAI_API_KEY=sk-… make run</code></pre>
    </aside>
  `;
}

function personaCard({ ai_persona, title, description, model, default: isDefault }) {
  return html`
    <label class="persona">
      <input
        type="radio"
        name="persona"
        value=${ai_persona}
        .checked=${state.newChat.persona === ai_persona}
        @change=${() => choose(ai_persona)}
      />
      <span>
        <strong lang=${languageOf(title)}>${title}</strong>
        ${isDefault ? html`<span class="tag">${t("new.default")}</span>` : nothing}
        <span class="persona-text" lang=${languageOf(description)}>${description}</span>
        <span class="persona-model">${model}</span>
      </span>
    </label>
  `;
}

function choose(persona) {
  Object.assign(state.newChat, { persona, requestId: "" });
  changed();
}

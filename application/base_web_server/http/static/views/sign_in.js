// Before anything else: sign up or log in.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { errorText } from "../errors.js";
import { t } from "../i18n.js";
import { enter } from "../session.js";
import { changed, state } from "../state.js";
import { brand, preferences } from "./frame.js";

export function signInView() {
  const { mode, isBusy, error, notice } = state.signIn;
  const isNew = mode === "signup";
  return html`
    <main class="sign-in">
      <header class="sign-in-top">${brand()} ${preferences()}</header>
      <section class="sign-in-card">
        <h1>${t("signIn.title")}</h1>
        <p class="quiet">${t("signIn.lead")}</p>
        ${notice ? html`<p class="notice" role="status">${t(notice)}</p>` : nothing}
        <div class="segments" role="group" aria-label=${t("signIn.do.login")}>
          ${["signup", "login"].map(
            (kind) => html`
              <button type="button" aria-pressed=${kind === mode} @click=${() => choose(kind)}>
                ${t(`signIn.tab.${kind}`)}
              </button>
            `,
          )}
        </div>
        <form @submit=${submit}>
          <label for="account">${t("signIn.account")}</label>
          <input
            id="account"
            name="account"
            required
            minlength="3"
            maxlength="64"
            autocomplete="username"
            autocapitalize="none"
            spellcheck="false"
            aria-describedby=${isNew ? "account-hint" : nothing}
          />
          ${isNew ? hint("account") : nothing}
          <label for="password">${t("signIn.password")}</label>
          <input
            id="password"
            name="password"
            type="password"
            required
            minlength="8"
            maxlength="128"
            autocomplete=${isNew ? "new-password" : "current-password"}
            aria-describedby=${isNew ? "password-hint" : nothing}
          />
          ${isNew ? hint("password") : nothing}
          <p class="problem" role="alert">${error ? errorText(error) : nothing}</p>
          <button class="primary wide" ?disabled=${isBusy}>
            ${isBusy ? t("signIn.busy") : t(`signIn.do.${mode}`)}
          </button>
        </form>
      </section>
      <nav class="links" aria-label=${t("links")}>
        <span>${t("links")}</span>
        <a href="docs">${t("links.api")}</a>
      </nav>
    </main>
  `;
}

function choose(mode) {
  Object.assign(state.signIn, { mode, error: null });
  changed();
}

function submit(event) {
  event.preventDefault();
  const fields = new FormData(event.currentTarget);
  void enter({
    isNew: state.signIn.mode === "signup",
    accountId: fields.get("account").trim(),
    password: fields.get("password"),
  });
}

function hint(field) {
  return html`<p class="hint" id="${field}-hint">${t(`signIn.${field}.hint`)}</p>`;
}

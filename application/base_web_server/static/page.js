// Puts this server's address into the page and keeps the health line true.
"use strict";

const DEFAULT_ADDRESS = "http://127.0.0.1:8080";

for (const element of document.querySelectorAll("#address, .step")) {
  element.textContent = element.textContent.replaceAll(DEFAULT_ADDRESS, window.location.origin);
}

async function showHealth() {
  const line = document.getElementById("health");
  try {
    const answer = await fetch("/readyz");
    // With netConfig.admin_port the health routes live elsewhere.
    if (answer.status === 404) {
      line.textContent = "on the admin port";
      return;
    }
    const { status, degraded, failed } = await answer.json();
    line.textContent = [status, ...failed.map((name) => `${name} failed`), ...degraded.map((name) => `${name} degraded`)].join(", ");
    line.dataset.ready = String(answer.ok);
  } catch {
    line.textContent = "the server does not answer";
    line.dataset.ready = "false";
  }
  setTimeout(showHealth, 5000);
}

showHealth();

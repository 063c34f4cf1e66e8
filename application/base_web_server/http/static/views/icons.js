// Line drawings on a grid of 24; each stands beside a text or in a control with a label.

import { html } from "../vendor/lit-html/lit-html.js";

const draw = (path) =>
  html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${path} /></svg>`;

export const icons = {
  back: draw("M15 5l-7 7 7 7"),
  plus: draw("M12 5v14M5 12h14"),
  send: draw("M12 19V5M6 11l6-6 6 6"),
  interrupt: draw("M12 20V9M6 15l6-6 6 6M6 4h12"),
  stop: draw("M7 7h10v10H7z"),
  copy: draw("M9 9h10v11H9zM5 15V4h10"),
  trash: draw("M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5"),
  pencil: draw("M4 20l1-5L16 4l4 4L9 19zM14 6l4 4"),
  down: draw("M12 5v14M6 13l6 6 6-6"),
  moon: draw("M20 14a8 8 0 1 1-10-10 6.5 6.5 0 0 0 10 10z"),
  sun: draw(
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5",
  ),
  leave: draw("M14 4H5v16h9M10 12h10M16 8l4 4-4 4"),
  retry: draw("M20 11a8 8 0 1 0-2 6M20 4v7h-7"),
  close: draw("M6 6l12 12M18 6L6 18"),
  check: draw("M5 12l5 5L19 7"),
};

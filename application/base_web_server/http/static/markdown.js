// A reply's Markdown as safe HTML. Three walls: markdown-it escapes all HTML in the text, DOMPurify
// lets through only what is listed here, and the page's policy (page_router.py) runs and loads
// nothing that is not this server's own.

import DOMPurify from "./vendor/dompurify/purify.es.mjs";
import cjkFriendly from "./vendor/markdown-it-cjk-friendly/index.js";
import MarkdownIt from "./vendor/markdown-it/markdown-it.esm.min.mjs";
import { currentLanguage, t } from "./i18n.js";
import { changed } from "./state.js";

const TAGS =
  "a blockquote br button code del div em h3 h4 h5 h6 hr li ol p pre s span strong" +
  " table tbody td th thead tr ul";
const PURIFY = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["class", "href", "rel", "start", "tabindex", "target", "type"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["rel", "start", "tabindex", "target", "type"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
};
// Texts that were made safe already; equal HTML gives the same object, so what is drawn of it stays
// untouched.
const KEPT = 3_000;
const safeTexts = new Map();

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true });
// CommonMark's rule for where emphasis ends counts on spaces between words: **마크다운(Markdown)**을
// would keep its asterisks.
markdown.use(cjkFriendly);
// It leaves **이름:**John, where a word in Latin letters or a number follows. Beside Hangul, what
// could only open there closes what is open, unless it stands behind an opening bracket or
// quotation mark.
markdown.inline.State = class extends markdown.inline.State {
  #hasHangul;
  #counted = { delimiters: null, at: 0, open: 0 };

  scanDelims(start, canSplitWord) {
    const found = super.scanDelims(start, canSplitWord);
    if (this.src[start] !== "*" || found.length < 2 || found.can_close || start === 0) return found;
    this.#hasHangul ??= /\p{sc=Hangul}/u.test(this.src);
    if (!this.#hasHangul || /[\s\p{Ps}\p{Pi}]/u.test(this.src[start - 1])) return found;
    return this.#openAsterisks() < found.length
      ? found
      : { ...found, can_open: false, can_close: true };
  }

  #openAsterisks() {
    const { delimiters } = this;
    if (this.#counted.delimiters !== delimiters) this.#counted = { delimiters, at: 0, open: 0 };
    const counted = this.#counted;
    for (; counted.at < delimiters.length; counted.at++) {
      const { marker, open, close } = delimiters[counted.at];
      if (marker !== 0x2a) continue;
      if (close && counted.open > 0) counted.open -= 1;
      else if (open) counted.open += 1;
    }
    return counted.open;
  }
};
// Without it, ![text](address) is "!" and a link: nothing is fetched until the reader wants it.
markdown.disable("image");
// Or "main.py" would be a link into Paraguay.
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

// In these scripts a particle, or the next word, follows an address without a space, and nobody
// writes an address with the quotation marks of prose in it: https://example.com/docs에서. So a bare
// address ends before the first such character. One that has them belongs in <…> or [](…), or is
// percent-encoded.
const ENDS_ADDRESS =
  /[\p{sc=Hangul}\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Bopomofo}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}\u2018-\u201f\u2026\u3000-\u303f\uff00-\uffef]/u;
// A host may be written in them too: http://한국.kr, https://m.쇼핑몰.co.kr. It ends with its last label
// in ASCII, or with a top-level domain of these scripts, but a particle may stand behind an ASCII
// one: https://example.com의README.md.
const PUNCTUATION = "\\u2018-\\u201f\\u2026\\u3000-\\u303f\\uff00-\\uffef";
const ASCII_DOMAINS = "com|net|org|edu|gov|info|biz|app|dev|kr|jp|cn|tw|io|ai|me|gg|tv|eu|us|uk|de";
const DOMAINS = "한국|닷컴|닷넷|삼성|中国|中國|香港|台湾|台灣|公司|网络|网址|みんな|コム";
const BEFORE_PARTICLE = `\\.(?:${ASCII_DOMAINS}|\\d+)[^\\0-\\x7f]`;
const INTERNATIONAL_HOST = new RegExp(
  `^[a-z]+://(?:(?!${BEFORE_PARTICLE})[^\\s/?#:${PUNCTUATION}])*\\.(?:(?=[a-z0-9])|${DOMAINS})`,
  "iu",
);
// One that ends with neither is taken whole if it has a dot; "https://로 시작하는 주소" has no address.
const WHOLE_HOST = new RegExp(
  `^[a-z]+://[^\\s/?#.${PUNCTUATION}]+\\.[^\\s/?#${PUNCTUATION}]+`,
  "iu",
);

function addressIn(text) {
  const address = cutAfter(text, INTERNATIONAL_HOST);
  return address.endsWith("://") ? cutAfter(text, WHOLE_HOST) : address;
}

function cutAfter(text, host) {
  const start = host.exec(text)?.[0].length ?? 0;
  const length = text.slice(start).search(ENDS_ADDRESS);
  return length < 0 ? text : text.slice(0, start + length);
}

const { linkify } = markdown;
const findAll = linkify.match.bind(linkify);
const findAtStart = linkify.matchAtStart.bind(linkify);
linkify.matchAtStart = (text) => findAtStart(addressIn(text));
linkify.match = (text) =>
  findAll(text)?.flatMap((link) => {
    const address = addressIn(link.raw);
    if (address.endsWith("://")) return [];
    const excess = link.raw.length - address.length;
    if (!excess) return link;
    const [raw, shown, url] = [link.raw, link.text, link.url].map((whole) =>
      whole.slice(0, whole.length - excess),
    );
    return { ...link, raw, text: shown, url, lastIndex: link.lastIndex - excess };
  }) ?? null;

const { rules } = markdown.renderer;

rules.fence = (tokens, index) => {
  const { content, info } = tokens[index];
  const name = /^[\w+#.-]{1,30}/.exec(info.trim())?.[0] ?? "";
  const label = markdown.utils.escapeHtml(name || t("code"));
  const copy = `<button type="button" class="copy-code">${t("copy")}</button>`;
  const bar = `<div class="code-bar"><span>${label}</span>${copy}</div>`;
  const code = highlighted(content, name.toLowerCase());
  return `<div class="code">${bar}<pre tabindex="0"><code>${code}</code></pre></div>`;
};
rules.code_block = rules.fence;
rules.table_open = () => '<div class="table" tabindex="0"><table>';
rules.table_close = () => "</table></div>";
for (const cell of ["th_open", "td_open"]) {
  rules[cell] = (tokens, index) => {
    const align = /text-align:(\w+)/.exec(tokens[index].attrGet("style"))?.[1];
    return `<${tokens[index].tag}${align ? ` class="align-${align}"` : ""}>`;
  };
}
// The page's own headings are h1 and h2.
for (const end of ["heading_open", "heading_close"]) {
  rules[end] = (tokens, index) =>
    `<${end === "heading_close" ? "/" : ""}h${Math.min(6, Number(tokens[index].tag[1]) + 2)}>`;
}

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (!node.getAttribute("href")) {
    node.removeAttribute("href");
    return;
  }
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/**
 * The blocks of a text (paragraphs, lists, code, …) as safe HTML, one by one: while it grows, only
 * the last changes.
 */
export function safeBlocks(text) {
  const env = {};
  const tokens = markdown.parse(text, env);
  const blocks = [];
  for (let start = 0, at = 0, depth = 0; at < tokens.length; at++) {
    depth += tokens[at].nesting;
    if (depth > 0) continue;
    blocks.push(safe(markdown.renderer.render(tokens.slice(start, at + 1), markdown.options, env)));
    start = at + 1;
  }
  return blocks;
}

function safe(html) {
  const key = `${currentLanguage()} ${html}`;
  let safeText = safeTexts.get(key);
  if (safeText === undefined) {
    safeText = DOMPurify.sanitize(html, PURIFY);
    if (safeTexts.size >= KEPT) safeTexts.delete(safeTexts.keys().next().value);
    safeTexts.set(key, safeText);
  }
  return safeText;
}

// The highlighter is large and many conversations have no code: it comes with the first block that
// names a language.
let highlighter = null;
let isComing = false;

export function hasHighlighter() {
  return highlighter !== null;
}

function highlighted(code, language) {
  if (language && !highlighter && !isComing) {
    isComing = true;
    void import("./vendor/highlight/highlight.min.js").then((module) => {
      highlighter = module.default;
      changed();
    });
  }
  if (!highlighter?.getLanguage(language)) return markdown.utils.escapeHtml(code);
  return highlighter.highlight(code, { language, ignoreIllegals: true }).value;
}

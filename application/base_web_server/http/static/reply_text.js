// The text of a running reply is a function of offsets. The server counts a reply in bytes of
// UTF-8: the id of a stream's event is the length of the text up to and including that event, and a
// list's `content` has the length it has. Lists and streams overtake each other, so each of them
// adds only what lies beyond the text that is known already.

const encoder = new TextEncoder();
// Without ignoreBOM a U+FEFF at the cut would vanish.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The length of `text` in bytes of UTF-8: the offset at its end. */
export function byteLength(text) {
  return encoder.encode(text).length;
}

/**
 * `known`, the beginning of a reply, extended by what lies beyond it of `part`, a piece of the same
 * reply that ends at the offset `end`. Null if text between the two is missing.
 */
export function extended(known, part, end) {
  const knownEnd = byteLength(known);
  if (end <= knownEnd) return known;
  const bytes = encoder.encode(part);
  const overlap = knownEnd - (end - bytes.length);
  if (overlap < 0) return null;
  return known + decoder.decode(bytes.subarray(overlap));
}

// Reads the running reply of the open room. A tab holds one stream at most, and none while nobody
// looks at it: browsers allow few connections, and replies run on without their readers.

import { Code, stream, Unreachable } from "./api.js";
import { pauseAfter, reportFailure } from "./connection.js";
import { t } from "./i18n.js";
import { byteLength, extended } from "./reply_text.js";
import { endedBy } from "./session.js";
import { announce, changed, openRoomId, openThread, state } from "./state.js";
import { tellTabs } from "./tabs.js";
import { emptyThread, findMessage, putMessage, removeMessage, runningReply } from "./thread.js";

const ENDS = ["reply.done", "reply.stopped", "reply.error"];

let current = null;

/**
 * Read what should be read now: the open room's running reply. To be called whenever that may have
 * changed.
 */
export function followRunning() {
  const reply = state.session && !document.hidden && openThread() && runningReply(openThread());
  if (reply && current?.messageId === reply.message_id) return;
  current?.abort.abort();
  current = null;
  if (reply) begin(openRoomId(), reply.message_id, new AbortController(), null);
}

/** Like followRunning, but if the reply is the one that `events` tell of, read on in them. */
export function followFrom(roomId, messageId, abort, events) {
  const thread = openThread();
  const isNext =
    !current &&
    !document.hidden &&
    openRoomId() === roomId &&
    runningReply(thread)?.message_id === messageId;
  if (isNext) begin(roomId, messageId, abort, events);
  else {
    abort.abort();
    followRunning();
  }
}

function begin(roomId, messageId, abort, events) {
  const reading = { roomId, messageId, abort };
  current = reading;
  void follow(reading, events).finally(() => {
    if (current !== reading) return;
    current = null;
    followRunning();
  });
}

async function follow(reading, events) {
  const { roomId, messageId, abort } = reading;
  for (let attempt = 0; !abort.signal.aborted; attempt++) {
    try {
      // Whatever told of the text so far: the rest begins where it ends.
      const known = findMessage(threadOf(reading), messageId)?.content ?? "";
      const fields = {
        room_id: roomId,
        message_id: messageId,
        last_event_id: String(byteLength(known)),
      };
      for await (const event of events ?? stream("api/chat/message/resume", fields, abort.signal)) {
        attempt = 0;
        if (take(reading, event)) return;
      }
      throw new Unreachable("the stream ended before the reply");
    } catch (error) {
      if (abort.signal.aborted || endedBy(error)) return;
      if (error.code === Code.MESSAGE_NOT_FOUND || error.code === Code.ROOM_NOT_FOUND) {
        removeMessage(threadOf(reading), messageId);
        changed();
        return;
      }
      reportFailure(error);
      await pauseAfter(error, attempt);
    }
    events = null;
  }
}

// True when the reply has ended.
function take(reading, event) {
  const { roomId, messageId } = reading;
  const thread = threadOf(reading);
  const message = findMessage(thread, messageId);
  if (event.type === "reply.delta" && message?.is_streaming) {
    const content = extended(message.content, event.data.text, Number(event.id));
    // The rest is asked for once more, from where the known text ends.
    if (content === null) throw new Error("text is missing before this event");
    message.content = content;
    changed();
  }
  if (!ENDS.includes(event.type)) return false;
  if (event.data.message) {
    const { content } = putMessage(thread, { ...event.data.message, error: event.data.error });
    announce(t("reply.ended", { text: content.slice(0, 500) }));
  } else {
    // It was deleted while it ran.
    removeMessage(thread, messageId);
  }
  changed();
  tellTabs(roomId);
  return true;
}

// A room that was forgotten and is open again has another thread.
function threadOf({ roomId }) {
  return state.threads.get(roomId) ?? emptyThread();
}

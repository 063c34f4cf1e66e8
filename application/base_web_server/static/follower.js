// Reads the running reply of the open room. A tab holds one stream at most, and none while nobody looks at it: browsers
// allow few connections, and replies run on without their readers.

import { Code, stream, Unreachable } from "./api.js";
import { pauseAfter, reportFailure } from "./connection.js";
import { t } from "./i18n.js";
import { endedBy } from "./session.js";
import { announce, changed, openRoomId, openThread, state } from "./state.js";
import { tellTabs } from "./tabs.js";
import { findMessage, putMessage, removeMessage, runningReply } from "./thread.js";

const ENDS = ["reply.done", "reply.stopped", "reply.error"];

let current = null;

/** Read what should be read now: the open room's running reply. To be called whenever that may have changed. */
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
    !current && !document.hidden && openRoomId() === roomId && runningReply(thread)?.message_id === messageId;
  if (isNext) begin(roomId, messageId, abort, events);
  else {
    abort.abort();
    followRunning();
  }
}

function begin(roomId, messageId, abort, events) {
  const reading = { roomId, messageId, abort, thread: openThread(), lastEventId: null };
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
      const fields = { room_id: roomId, message_id: messageId };
      if (reading.lastEventId !== null) fields.last_event_id = reading.lastEventId;
      for await (const event of events ?? stream("api/chat/message/resume", fields, abort.signal)) {
        attempt = 0;
        if (take(reading, event)) return;
      }
      throw new Unreachable("the stream ended before the reply");
    } catch (error) {
      if (abort.signal.aborted || endedBy(error)) return;
      if (error.code === Code.MESSAGE_NOT_FOUND || error.code === Code.ROOM_NOT_FOUND) {
        removeMessage(reading.thread, messageId);
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
  const { thread, messageId } = reading;
  const message = findMessage(thread, messageId);
  if (event.type === "reply.delta" && message?.is_streaming) {
    // What the list said of the text may be anywhere; the first event of a stream is at its beginning.
    message.content = reading.lastEventId === null ? event.data.text : message.content + event.data.text;
    changed();
  }
  if (event.type !== "message.accepted") reading.lastEventId = event.id;
  if (!ENDS.includes(event.type)) return false;
  if (event.data.message) {
    const { content } = putMessage(thread, { ...event.data.message, error: event.data.error });
    announce(t("reply.ended", { text: content.slice(0, 500) }));
  } else {
    // It was deleted while it ran.
    removeMessage(thread, messageId);
  }
  changed();
  tellTabs(reading.roomId);
  return true;
}

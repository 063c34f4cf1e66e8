// A server in the page's place of `fetch`, for tests/browser/test_reply_text.py: it answers when
// the story says so. Its texts are pieces of the replies' final texts, as the real server's are.

(() => {
  const USER = "USER";
  const encoder = new TextEncoder();
  const bytes = (text) => encoder.encode(text).length;

  // Pauses end at once, in their order, without the pause that browsers make between nested timers;
  // what watches for a silent server never runs out.
  const tasks = new Map();
  const { port1, port2 } = new MessageChannel();
  let timers = 0;
  port1.onmessage = ({ data }) => {
    const task = tasks.get(data);
    tasks.delete(data);
    task?.();
  };
  const later = (callback, ...args) => {
    tasks.set(++timers, () => callback(...args));
    port2.postMessage(timers);
    return timers;
  };
  window.setTimeout = (callback, ms, ...args) => (ms >= 30_000 ? 0 : later(callback, ...args));
  window.clearTimeout = (timer) => tasks.delete(timer);
  const settled = async () => {
    for (let turn = 0; turn < 12; turn++) await new Promise(later);
  };

  const rooms = new Map();
  const lists = [];
  let streams = [];
  let counter = 0;
  let hidden = false;
  Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });

  const room = (roomId) => {
    if (!rooms.has(roomId))
      rooms.set(roomId, { roomId, messages: [], texts: [], letters: new Map() });
    return rooms.get(roomId);
  };
  const cardOf = ({ roomId, messages }) => ({
    room_id: roomId,
    title: roomId,
    ai_persona: "DEMO",
    created_at: "2026-01-01T00:00:00+00:00",
    last_message_at: "2026-01-01T00:00:00+00:00",
    message_count: messages.length,
    state: "ACTIVE",
  });
  const page = ({ messages }) => ({
    errorCode: 0,
    messages: messages.map((message) => ({ ...message })),
    has_more: false,
    next_cursor: null,
  });
  const json = (body, status = 200) =>
    new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });

  const put = (here, fields) => {
    const seq = here.messages.length + 1;
    const message = {
      message_id: `${here.roomId}-${seq}`,
      room_id: here.roomId,
      seq,
      timestamp: "2026-01-01T00:00:00+00:00",
      state: "SENT",
      metadata: { ai_persona: "DEMO" },
      is_streaming: false,
      ...fields,
    };
    here.messages.push(message);
    return message;
  };
  /** A question and its reply, which has not said anything yet. */
  const ask = (here, content) => {
    const question = put(here, { sender_type: USER, content });
    const parent_message_id = question.message_id;
    const reply = put(here, {
      sender_type: "AI",
      content: "",
      parent_message_id,
      is_streaming: true,
    });
    here.letters.set(reply.message_id, [...here.texts[counter++ % here.texts.length]]);
    return { question, reply };
  };
  const running = (here) => here.messages.find((message) => message.is_streaming);

  const open = (here, reply, offset, signal) => {
    let stream;
    const body = new ReadableStream({
      start(controller) {
        stream = { here, reply, offset, controller };
        streams.push(stream);
      },
      cancel() {
        streams = streams.filter((known) => known !== stream);
      },
    });
    signal.addEventListener("abort", () => {
      streams = streams.filter((known) => known !== stream);
      try {
        stream.controller.error(new DOMException("aborted", "AbortError"));
      } catch {
        // It has ended.
      }
    });
    return [stream, new Response(body, { headers: { "Content-Type": "text/event-stream" } })];
  };
  const tell = (stream, id, type, data) =>
    stream.controller.enqueue(
      encoder.encode(`id: ${id}\nevent: ${type}\ndata: ${JSON.stringify(data)}\n\n`),
    );

  const realFetch = window.fetch.bind(window);
  window.fetch = async (path, options) => {
    if (!String(path).startsWith("api/")) return realFetch(path, options);
    const asked = JSON.parse(options.body);
    if (path === "api/chat/rooms")
      return json({
        errorCode: 0,
        rooms: [...rooms.values()].map(cardOf),
        total_count: rooms.size,
        has_more: false,
      });
    if (path === "api/chat/personas") return json({ errorCode: 0, personas: [] });
    const here = room(asked.room_id);
    if (path === "api/chat/messages")
      return new Promise((resolve) =>
        lists.push({ here, then: page(here), answer: (found) => resolve(json(found)) }),
      );
    if (path === "api/chat/message/stream") {
      const { question, reply } = ask(here, asked.content);
      const [stream, response] = open(here, reply, 0, options.signal);
      tell(stream, 0, "message.accepted", { user_message: question, message_id: reply.message_id });
      return response;
    }
    if (path === "api/chat/message/resume") {
      const reply = here.messages.find((message) => message.message_id === asked.message_id);
      const offset = Number(asked.last_event_id ?? 0);
      // As the real one: no event of this reply had an offset beyond its end.
      if (offset > bytes(reply.content) + (reply.is_streaming ? 0 : 1))
        return json(
          { errorCode: 1002, error: { code: "INVALID_REQUEST", message: "last_event_id" } },
          400,
        );
      return open(here, reply, offset, options.signal)[1];
    }
    throw new TypeError(`no such path in a story: ${path}`);
  };

  /**
   * The part of `text` beyond byte `offset`, and where that begins if `offset` is `back` characters
   * too far.
   */
  const beyond = (text, offset, back) => {
    let start = new TextDecoder("utf-8", { ignoreBOM: true }).decode(
      encoder.encode(text).subarray(0, offset),
    );
    start = [...start].slice(0, [...start].length - back).join("");
    return text.slice(start.length);
  };
  const steps = {
    /** The running reply says `count` characters more. */
    say: (here, count) => {
      const reply = running(here);
      if (reply) reply.content += here.letters.get(reply.message_id).splice(0, count).join("");
    },
    end: (here, reason) => {
      const reply = running(here);
      if (!reply) return;
      if (reason === "stop") steps.say(here, Infinity);
      Object.assign(reply, {
        is_streaming: false,
        metadata: { ...reply.metadata, finish_reason: reason },
      });
    },
    /** One more list is asked for, as after a message of another tab. */
    hear: async (here) => {
      const { refreshThread } = await import("/static/conversation.js");
      void refreshThread(here.roomId);
    },
    /**
     * Answer the oldest or the newest list that was asked for, with what there was then or with
     * what there is now.
     */
    list: (_, which, when) => {
      const list = which === "oldest" ? lists.shift() : lists.pop();
      list?.answer(when === "then" ? list.then : page(list.here));
    },
    /** An event of every open stream; `back`: its text begins so many characters too early. */
    event: (_, most, back) => {
      for (const stream of streams) {
        const { reply } = stream;
        const rest = [...beyond(reply.content, stream.offset, 0)];
        if (rest.length) {
          const text = beyond(reply.content, stream.offset, back);
          const part = [...text]
            .slice(0, [...text].length - rest.length + Math.min(most, rest.length))
            .join("");
          stream.offset += bytes(rest.slice(0, most).join(""));
          tell(stream, stream.offset, "reply.delta", { text: part });
        } else if (!reply.is_streaming) {
          const reason = reply.metadata.finish_reason;
          const type = { stop: "reply.done", stopped: "reply.stopped", error: "reply.error" }[
            reason
          ];
          tell(stream, bytes(reply.content) + 1, type, {
            message: reply,
            error: { code: "AI_UNAVAILABLE" },
          });
          stream.controller.close();
          streams = streams.filter((known) => known !== stream);
        }
      }
    },
    cut: (_, how) => {
      for (const { controller } of streams)
        how === "close" ? controller.close() : controller.error(new Error("cut"));
      streams = [];
    },
    hide: (_, isHidden) => {
      hidden = isHidden;
      document.dispatchEvent(new Event("visibilitychange"));
    },
    /** The reader asks here … */
    ask: async () => {
      const { say } = await import("/static/conversation.js");
      await say("a question");
    },
    /** … or in another tab. */
    elsewhere: async (here) => {
      ask(here, "a question of another tab");
      await steps.hear(here);
    },
  };

  /** Play a story in a room of its own. The first thing that is not as it should be, or null. */
  window.playStory = async ({ roomId, texts, story }) => {
    const { state } = await import("/static/state.js");
    rooms.clear();
    lists.length = 0;
    const here = room(roomId);
    here.texts = texts;
    hidden = false;
    location.hash = `#room=${roomId}`;
    await settled();
    const wrong = () => {
      for (const shown of state.threads.get(roomId)?.messages ?? []) {
        const there = here.messages.find((message) => message.message_id === shown.message_id);
        if (!there.content.startsWith(shown.content))
          return { shown: shown.content, said: there.content };
      }
      return null;
    };
    for (const [name, ...args] of story) {
      await steps[name](here, ...args);
      await settled();
      if (wrong()) return { after: [name, ...args], ...wrong() };
    }
    // In the end everything is said and read, whatever came before.
    steps.hide(here, false);
    for (let round = 0; round < 40; round++) {
      if (round > 1) steps.end(here, "stop");
      steps.event(here, 3, 0);
      steps.event(here, Infinity, 0);
      while (lists.length) steps.list(here, "oldest", "now");
      await settled();
      if (wrong()) return { after: "the story", ...wrong() };
      const shown = state.threads.get(roomId).messages.map(({ content }) => content);
      const said = here.messages.map(({ content }) => content);
      if (!running(here) && !streams.length && !lists.length && String(shown) === String(said))
        return null;
    }
    const shown = state.threads
      .get(roomId)
      .messages.map(({ content, is_streaming }) => [content, is_streaming]);
    return { after: "the end", shown, said: here.messages.map(({ content }) => content) };
  };
})();

// A chat with an agent as a page would hold it: begins a chat once the
// connection is accepted, says one thing after the other, and lets answers grow
// in a list as their chunks come. With `resume` it goes on with a chat instead.
//
// Argument: { url, token?, agent_type?, context?, say?: [{ message, context? }, …],
//             resume?: { session_id, after_chunk, answer?, content? } }
//           Without `token` the URL brings one.
// Output:   { event: "open" } | { frame } | { messages } after every answer, each message
//           { from, content, session_id } | { event: "close", code, reason }

import { WebSocket } from "ws";

import { emit, settings } from "./lib.mjs";

const { url, token, agent_type = "threat_classifier", context, say = [], resume } = settings();
const socket = new WebSocket(url);
const send = (frame) => socket.send(JSON.stringify(frame));
const waiting = [...say];
const messages = [];

/** Lets the last answer grow, or begins one. */
function grow({ session_id, content }) {
  const last = messages.at(-1);
  if (last?.growing) {
    last.content += content;
  } else {
    messages.push({ from: "agent", content, session_id, growing: true });
  }
}

/** Says what is next; leaves when there is nothing. */
function next(session_id) {
  const said = waiting.shift();
  if (said === undefined) {
    socket.close(1000);
    return;
  }
  messages.push({ from: "user", content: said.message, session_id });
  send({ type: "chat_message", session_id, ...said });
}

/** An answer is whole: what grew is what came as a whole. */
function end({ session_id, full_response }) {
  const last = messages.at(-1);
  // Of an answer that was resumed without `content` the beginning is missing.
  const isWhole = resume === undefined || resume.content !== undefined || messages.length > 1;
  if (isWhole && last.content !== full_response) {
    emit({ event: "error", message: "the chunks are not the answer" });
  }
  delete last.growing;
  emit({ messages });
  next(session_id);
}

const handlers = {
  auth_success() {
    if (resume === undefined) {
      send({ type: "start_chat", agent_type, context });
      return;
    }
    const { content, ...rest } = resume;
    if (content !== undefined) {
      grow({ session_id: resume.session_id, content });
    }
    send({ type: "resume_chat", ...rest });
  },
  chat_session_started: ({ session_id }) => next(session_id),
  agent_response_chunk: grow,
  agent_response_complete: end,
};

socket.on("open", () => {
  emit({ event: "open" });
  if (token !== undefined) {
    send({ type: "authenticate", token });
  }
});
socket.on("message", (data) => {
  const frame = JSON.parse(data);
  emit({ frame });
  handlers[frame.type]?.(frame);
});
socket.on("error", ({ message }) => emit({ event: "error", message }));
socket.on("close", (code, reason) => emit({ event: "close", code, reason: reason.toString() }));

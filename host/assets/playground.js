/** Any topic, tried by hand: joins it, pushes events to it, and shows what comes back. */

import { $, append, divider, element, reasonOf } from "./dom.js";

const FRAMES_SHOWN = 500;

export class Playground {
  #connection;
  #channel = null;
  /** That of the last channel, of which more may come when it is left. */
  #topic = null;

  /** @param {import("./connection.js").Connection} connection */
  constructor(connection) {
    this.#connection = connection;
    connection.socket.onMessage((message) => this.#hear(message));
    $("join").addEventListener("submit", (event) => this.#join(event));
    $("leave").addEventListener("click", () => this.#leave());
    $("push").addEventListener("submit", (event) => this.#push(event));
  }

  get connection() {
    return this.#connection;
  }

  /** The topic that is joined, if one is. */
  get topic() {
    return this.#channel?.topic;
  }

  /** Offers a topic to join, unless somebody has written one. */
  offer(topic) {
    if (!$("topic").value) $("topic").value = topic;
  }

  /** Takes this topic. */
  choose(topic) {
    $("topic").value = topic;
    $("join").requestSubmit();
  }

  divide(text, generation) {
    this.#show(divider(text, generation));
  }

  forgetDividers() {
    for (const old of $("frames").querySelectorAll(".swap")) old.remove();
  }

  #join(submitted) {
    submitted.preventDefault();
    const params = json("params", "join-error");
    if (params === undefined) return;
    this.#leave();
    const topic = $("topic").value.trim();
    // Asked for with each join: also with those that the client makes by itself.
    const channel = this.#connection.socket.channel(topic, () => (this.#sent("join", topic, params), params));
    this.#channel = channel;
    this.#topic = topic;
    this.#state("joining", `Joining ${topic}…`);
    // What a channel says after another took its place is nobody's business.
    const mine = (handle) => (response) => channel === this.#channel && handle(response);
    channel.onError(mine(() => this.#state("errored", `${topic} was lost; it is joined again as soon as it can be.`)));
    channel.onClose(mine(() => this.#ended(`${topic} has ended.`)));
    const answered = (status, then) => mine((response) => (this.#answered(status, "join", response), then(response)));
    channel
      .join()
      .receive("ok", answered("ok", () => this.#state("joined", `In ${topic}.`)))
      .receive("error", answered("error", (response) => this.#refused(channel, `${topic} said no: ${reasonOf(response)}`)))
      .receive("timeout", answered("timeout", () => this.#state("errored", `${topic} does not answer; it is tried again.`)));
  }

  #leave() {
    const channel = this.#channel;
    this.#ended("Not joined.");
    if (!channel) return;
    this.#sent("leave", channel.topic, {});
    channel.leave().receive("ok", (response) => this.#answered("ok", "leave", response));
  }

  #refused(channel, text) {
    this.#ended(text, "errored");
    // It would be tried for ever.
    channel.leave();
  }

  #ended(text, state = "closed") {
    this.#channel = null;
    this.#state(state, text);
  }

  #state(state, text) {
    $("join-state").dataset.state = state;
    $("join-state").textContent = text;
    $("leave").disabled = !this.#channel;
    $("push-button").disabled = !this.#channel;
  }

  #push(submitted) {
    submitted.preventDefault();
    const payload = json("payload", "push-error");
    if (payload === undefined || !this.#channel) return;
    const event = $("event").value.trim();
    this.#sent("push", event, payload);
    const push = this.#channel.push(event, payload);
    for (const status of ["ok", "error", "timeout"]) {
      push.receive(status, (response) => this.#answered(status, event, response));
    }
  }

  /** What comes without being asked for. */
  #hear({ topic, event, payload }) {
    if (topic !== this.#topic || event === "phx_reply") return;
    this.#frame("heard", "←", event, payload);
  }

  #sent(kind, event, payload) {
    this.#frame(kind, "→", kind === "push" ? event : `${kind} ${event}`, payload);
  }

  #answered(status, event, response) {
    const text = status === "timeout" ? "no reply in time" : response;
    this.#frame("reply", "←", `${status} to ${event}`, text).dataset.status = status;
  }

  #frame(kind, arrow, name, payload) {
    const item = element("li", { className: "frame" }, `${arrow} `, element("b", {}, name), " ", element("code", {}, shown(payload)));
    item.dataset.kind = kind;
    this.#show(item);
    return item;
  }

  #show(item) {
    append($("frames"), $("frames-box"), item, FRAMES_SHOWN);
  }
}

/** What stands in a field as JSON; nothing is an empty object. `undefined`: it is no JSON, which is said. */
function json(field, complaint) {
  try {
    const value = JSON.parse($(field).value.trim() || "{}");
    $(complaint).textContent = "";
    return value;
  } catch (error) {
    $(complaint).textContent = `This is no JSON: ${error.message}`;
    return undefined;
  }
}

function shown(payload) {
  return payload instanceof ArrayBuffer ? `${payload.byteLength} bytes` : JSON.stringify(payload);
}

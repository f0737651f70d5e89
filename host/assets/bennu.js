/**
 * Joins channels from a browser, from Node or from wherever there is a WebSocket.
 *
 * Those who know phoenix.js know this: a {@link Socket} has {@link Channel}s, a channel has {@link Push}es, a
 * {@link Presence} keeps the list of who is there. One module, no dependency; it speaks to nobody but the one mount.
 *
 * ```js
 * const socket = new Socket("/socket", { params: { token } });
 * socket.connect();
 *
 * const room = socket.channel("room:lobby", { name: "Ada" });
 * room.on("new_msg", ({ name, body }) => console.log(name, body));
 * room.join().receive("ok", ({ history }) => show(history));   // again after every rejoin
 *
 * const { id } = await room.push("new_msg", { body: "hello" }); // a push can be awaited, too
 * ```
 *
 * Two things can be exchanged. A *transport* carries frames: `"websocket"`, `"longpoll"` ({@link LongPoll}), or a class
 * like `WebSocket`, with a static `skipHeartbeat` if it needs none. A *dialect* turns messages into frames and back:
 * `"2.0.0"` ({@link V2}), `"0.11"` ({@link V0_11}), or an object like these.
 */

/** How long a push or a join waits for its reply. */
const TIMEOUT_MS = 10_000;
/** How often a connection is asked whether it lives. The server gives up after 90 s of silence. */
const HEARTBEAT_MS = 30_000;
/** How long a request of long polling may take. The server lets a poll wait for 10 s. */
const REQUEST_TIMEOUT_MS = 20_000;
/** How long the first, the second, … try to connect waits at most. */
const RECONNECT_STEPS_MS = [250, 500, 1_000, 2_000, 5_000, 10_000];
/** How long the first, the second, … try to join again waits at most. */
const REJOIN_STEPS_MS = [500, 1_000, 2_000, 5_000, 10_000];

/** What the subprotocol begins with that carries a token. */
const TOKEN_PROTOCOL = "base64url.bearer.phx.";
/** The header that carries it with long polling. */
const TOKEN_HEADER = "X-Phoenix-AuthToken";

const NO_WEBSOCKET =
  "there is no WebSocket here, as in Node before 22: give a class like it as `transport` (that of the package ws is one), or" +
  ' `transport: "longpoll"`';

/**
 * The wait before try number `tries` (from 1). Anything up to the step, at random: after a server's restart all its
 * clients are back within seconds, but not in the same instant.
 *
 * @param {number[]} steps
 * @param {number} tries
 * @param {() => number} [random] in [0, 1)
 * @returns {number} milliseconds
 */
export function backoff(steps, tries, random = Math.random) {
  return Math.round(steps[Math.min(tries, steps.length) - 1] * random());
}

/**
 * One client's connection, opened again whenever it is lost.
 */
export class Socket {
  #url;
  #options;
  #transport;
  #other;
  #dialect;
  #connection = null;
  #wanted = false;
  #everOpen = false;
  #tries = 0;
  #fallbackTimer;
  #reconnectTimer;
  #heartbeatTimer;
  #heartbeatRef = null;
  #lastRef = 0;
  #channels = [];
  #listeners = new Listeners();
  #wakeUps = null;

  /**
   * @param {string} endpoint the mount: `/socket` on a page, else with scheme and host
   * @param {object} [options]
   * @param {object | (() => object)} [options.params] sent with each connection; a function is asked each time
   * @param {string | (() => string)} [options.authToken] for mounts with `auth_token`: sent in a header, not in the address
   * @param {number} [options.timeout] milliseconds that pushes and joins wait for their reply
   * @param {number} [options.heartbeatIntervalMs]
   * @param {(tries: number) => number} [options.reconnectAfterMs]
   * @param {(tries: number) => number} [options.rejoinAfterMs]
   * @param {string | Function} [options.transport] `"websocket"` is the default; where there is no `WebSocket`, it is long
   *   polling if `longPollFallbackMs` is set, and else an error
   * @param {string | object} [options.dialect] `"2.0.0"` is the default
   * @param {number} [options.longPollFallbackMs] if no connection comes about in so many milliseconds, or one fails, then
   *   long polling and the transport take turns until one does; that one stays
   */
  constructor(endpoint, options = {}) {
    this.#options = {
      params: {},
      timeout: TIMEOUT_MS,
      heartbeatIntervalMs: HEARTBEAT_MS,
      reconnectAfterMs: (tries) => backoff(RECONNECT_STEPS_MS, tries),
      rejoinAfterMs: (tries) => backoff(REJOIN_STEPS_MS, tries),
      transport: "websocket",
      dialect: "2.0.0",
      ...options,
    };
    this.#url = endpoint;
    const fallsBack = this.#options.longPollFallbackMs !== undefined;
    const websocket = globalThis.WebSocket ?? (fallsBack ? LongPoll : undefined);
    if (!websocket && this.#options.transport === "websocket") throw new TypeError(NO_WEBSOCKET);
    this.#transport = named("transport", { websocket, longpoll: LongPoll }, this.#options.transport);
    this.#other = fallsBack ? LongPoll : this.#transport;
    this.#dialect = named("dialect", { "2.0.0": V2, "0.11": V0_11 }, this.#options.dialect);
  }

  /** Connects, and stays connected until {@link Socket.disconnect}. */
  connect() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#listenForWakeUps();
    this.#open();
  }

  /** Closes the connection for good. Channels join again after the next {@link Socket.connect}. */
  disconnect(code = 1000, reason = "") {
    this.#wanted = false;
    this.#wakeUps?.abort();
    clearTimeout(this.#reconnectTimer);
    this.#lose({ code, reason, wasClean: true }, code);
  }

  /** Whether messages can be sent now. */
  isConnected() {
    return this.#connection?.readyState === 1;
  }

  /**
   * A channel for a topic. It is not joined yet.
   *
   * @param {string} topic
   * @param {object | ArrayBuffer | (() => object)} [params] sent with each join; a function is asked each time
   * @returns {Channel}
   */
  channel(topic, params = {}) {
    const channel = new Channel(topic, params, this);
    this.#channels.push(channel);
    return channel;
  }

  /** @param {() => void} callback @returns {number} for {@link Socket.off} */
  onOpen(callback) {
    return this.#listeners.add("open", callback);
  }

  /** @param {(event: {code: number, reason: string}) => void} callback @returns {number} for {@link Socket.off} */
  onClose(callback) {
    return this.#listeners.add("close", callback);
  }

  /** @param {(error: unknown) => void} callback @returns {number} for {@link Socket.off} */
  onError(callback) {
    return this.#listeners.add("error", callback);
  }

  /** @param {(message: Message) => void} callback sees every message @returns {number} for {@link Socket.off} */
  onMessage(callback) {
    return this.#listeners.add("message", callback);
  }

  /** @param {number[]} refs of callbacks that are called no more */
  off(refs) {
    this.#listeners.remove(refs);
  }

  /** Where the next connection goes. */
  endPointURL() {
    const { params } = this.#options;
    const [path, scheme] = this.#transport === LongPoll ? ["longpoll", "http"] : ["websocket", "ws"];
    const url = new URL(this.#url + this.#dialect.paths[path], globalThis.location?.href);
    url.protocol = url.protocol.replace(/^(http|ws)/, scheme);
    const query = flatten(typeof params === "function" ? params() : params);
    if (this.#dialect.vsn) query.push(["vsn", this.#dialect.vsn]);
    for (const [key, value] of query) url.searchParams.append(key, value);
    return url.href;
  }

  #open() {
const connection = new this.#transport(this.endPointURL(), ...this.#arguments());
    // What a connection says after it was given up is nobody's business.
    const current = (handle) => (event) => connection === this.#connection && handle(event);
    connection.binaryType = "arraybuffer";
    connection.onopen = current(() => this.#opened());
    connection.onmessage = current((event) => this.#receive(event.data));
    connection.onerror = current((error) => this.#listeners.call("error", error));
    connection.onclose = current((event) => this.#lose(event));
    this.#connection = connection;
    const { longPollFallbackMs } = this.#options;
    if (longPollFallbackMs === undefined || this.#everOpen || this.#transport === LongPoll) return;
    this.#fallbackTimer = setTimeout(() => this.#lose({ code: 1006, reason: "too late", wasClean: false }), longPollFallbackMs);
  }

  /** What a transport is made with besides its address. */
  #arguments() {
    const { authToken } = this.#options;
    const token = typeof authToken === "function" ? authToken() : authToken;
    if (this.#transport === LongPoll) return [this.#dialect, token];
    // The only header of a WebSocket that a page can set.
    return token ? [["phoenix", TOKEN_PROTOCOL + urlSafe(base64(new TextEncoder().encode(token)))]] : [];
  }

  #opened() {
    this.#tries = 0;
    this.#everOpen = true;
    clearTimeout(this.#fallbackTimer);
    this.#scheduleHeartbeat();
    for (const channel of [...this.#channels]) channel._socketOpened();
    this.#listeners.call("open");
  }

  #lose(event, closeWith = 1000) {
    const connection = this.#connection;
    if (!connection) return;
    this.#connection = null;
    clearTimeout(this.#fallbackTimer);
    clearTimeout(this.#heartbeatTimer);
    this.#heartbeatRef = null;
    connection.close(closeWith);
    for (const channel of [...this.#channels]) channel._socketClosed(this.#wanted);
    if (this.#wanted) {
      if (!this.#everOpen) [this.#transport, this.#other] = [this.#other, this.#transport];
      this.#tries += 1;
      this.#reconnectTimer = setTimeout(() => this.#reconnect(), this.#options.reconnectAfterMs(this.#tries));
    }
    this.#listeners.call("close", event);
  }

  #reconnect() {
    clearTimeout(this.#reconnectTimer);
    if (this.#wanted && !this.#connection) this.#open();
  }

  /** A page that is seen again, or a network that is back, needs no patience. */
  #listenForWakeUps() {
    this.#wakeUps = new AbortController();
    const { signal } = this.#wakeUps;
    globalThis.addEventListener?.("online", () => this.#reconnect(), { signal });
    globalThis.document?.addEventListener(
      "visibilitychange",
      () => document.visibilityState === "visible" && this.#reconnect(),
      { signal },
    );
  }

  #scheduleHeartbeat() {
    if (this.#transport.skipHeartbeat) return;
    this.#heartbeatTimer = setTimeout(() => this.#heartbeat(), this.#options.heartbeatIntervalMs);
  }

  #heartbeat() {
    if (this.#heartbeatRef) {
      // A dead connection may take minutes to say so; it is not waited for.
      this.#lose({ code: 1006, reason: "heartbeat timeout", wasClean: false });
      return;
    }
    this.#heartbeatRef = this._nextRef();
    this._send({ joinRef: null, ref: this.#heartbeatRef, topic: "phoenix", event: "heartbeat", payload: {} });
    this.#scheduleHeartbeat();
  }

  #receive(data) {
    let message;
    try {
      message = this.#dialect.decode(data, this.#connection.textOnly);
    } catch (error) {
      this.#listeners.call("error", error);
      return;
    }
    if (message.topic === "phoenix") this.#heartbeatRef = null;
    for (const channel of this.#channels.filter((channel) => channel.topic === message.topic)) {
      channel._receive(message);
    }
    this.#listeners.call("message", message);
  }

  /** @internal */
  get _options() {
    return this.#options;
  }

  /** @internal Refs are unique for a socket's life, so a late reply never answers another's push. */
  _nextRef() {
    this.#lastRef += 1;
    return String(this.#lastRef);
  }

  /** @internal Sends if connected; throws if the message cannot be encoded. */
  _send(message) {
    const frame = this.#dialect.encode(message);
    if (this.isConnected()) this.#connection.send(frame);
  }

  /** @internal */
  _remove(channel) {
    this.#channels = this.#channels.filter((other) => other !== channel);
  }

  /** @internal The server knows one channel for a topic; an earlier one of ours makes way. */
  _replaceOthers(channel) {
    const others = this.#channels.filter((other) => other !== channel && other.topic === channel.topic);
    for (const other of others) if (other.state !== "closed") other.leave();
  }
}

/**
 * A membership of one topic, taken up again after a crash or a lost connection.
 *
 * `state` is `"closed"`, `"joining"`, `"joined"`, `"errored"` (a join will be tried again) or `"leaving"`.
 */
export class Channel {
  /** @type {"closed" | "joining" | "joined" | "errored" | "leaving"} */
  state = "closed";
  #params;
  #socket;
  #join = null;
  #joinRef = null;
  #tries = 0;
  #rejoinTimer;
  #waiting = new Map();
  #buffer = [];
  #listeners = new Listeners();

  /** @internal Use {@link Socket.channel}. */
  constructor(topic, params, socket) {
    this.topic = topic;
    this.#params = params;
    this.#socket = socket;
  }

  /**
   * Joins, now or as soon as the socket is connected, and again whenever the channel is lost. The callbacks of the
   * returned push are called for each of these joins. A refused join is tried again as well; {@link Channel.leave} ends that.
   *
   * @param {number} [timeoutMs]
   * @returns {Push}
   */
  join(timeoutMs = this.#socket._options.timeout) {
    if (this.#join) throw new Error(`the channel for ${this.topic} has been joined already; make another one`);
    this.#socket._replaceOthers(this);
    this.#join = new Push("phx_join", this.#params, timeoutMs, (outcome) => this.#joinSettled(outcome), this.topic);
    this.#startJoin();
    return this.#join;
  }

  /**
   * Leaves for good.
   *
   * @returns {Push} answered `"ok"` even where nobody is there to answer
   */
  leave(timeoutMs = this.#socket._options.timeout) {
    const wasThere = (this.state === "joined" || this.state === "joining") && this.#socket.isConnected();
    const leave = new Push("phx_leave", {}, timeoutMs, () => this.#close("leave"));
    clearTimeout(this.#rejoinTimer);
    this.#join?._cancel();
    this.#failPushes("leaving");
    this.state = "leaving";
    leave._start();
    if (wasThere) this.#transmit(leave);
    else leave._settle("ok", {});
    return leave;
  }

  /**
   * Sends an event. Before the join is answered, and while the channel is lost, pushes wait for the join in their order.
   *
   * @param {string} event
   * @param {unknown} [payload] anything JSON, or an `ArrayBuffer` or a view of one, which goes out as it is
   * @param {number} [timeoutMs]
   * @returns {Push}
   */
  push(event, payload = {}, timeoutMs = this.#socket._options.timeout) {
    if (!this.#join) throw new Error(`join ${this.topic} before pushing ${event} to it`);
    const push = new Push(event, payload, timeoutMs, () => this.#forget(push), this.topic);
    push._start();
    if (this.state === "joined") this.#transmit(push);
    else if (this.state === "leaving" || this.state === "closed") push._settle("error", { reason: this.state });
    else this.#buffer.push(push);
    return push;
  }

  /** @param {string} event @param {(payload: any) => void} callback @returns {number} for {@link Channel.off} */
  on(event, callback) {
    return this.#listeners.add(event, callback);
  }

  /** Calls one callback of an event no more, or without `ref` all of them. */
  off(event, ref) {
    this.#listeners.remove(ref === undefined ? this.#listeners.refs(event) : [ref]);
  }

  /**
   * @param {(payload: object) => void} callback called when the channel is lost, unless by {@link Socket.disconnect}
   * @returns {number} for {@link Channel.off}
   */
  onError(callback) {
    return this.on("phx_error", callback);
  }

  /** @param {() => void} callback called when the channel has ended @returns {number} for {@link Channel.off} */
  onClose(callback) {
    return this.on("phx_close", callback);
  }

  /** The join that this channel lives by; changes with each. */
  joinRef() {
    return this.#joinRef;
  }

  #startJoin() {
    clearTimeout(this.#rejoinTimer);
    this.state = "joining";
    this.#joinRef = this.#socket._nextRef();
    this.#waiting.clear();
    this.#join.payload = typeof this.#params === "function" ? this.#params() : this.#params;
    this.#join._start();
    this.#transmit(this.#join, this.#joinRef);
  }

  #joinSettled({ status }) {
    if (status === "ok") {
      this.state = "joined";
      this.#tries = 0;
      for (const push of this.#buffer.splice(0)) this.#transmit(push);
      return;
    }
    if (status === "timeout") {
      // The server may have been about to say yes. What it says about this join from now on is not for us.
      this.#transmit(new Push("phx_leave", {}, 0, () => {}));
      this.#joinRef = null;
    }
    this.#rejoinLater();
  }

  #transmit(push, ref = this.#socket._nextRef()) {
    push.ref = ref;
    this.#waiting.set(ref, push);
    const { event, payload } = push;
    try {
      this.#socket._send({ joinRef: this.#joinRef, ref, topic: this.topic, event, payload });
    } catch (error) {
      push._settle("error", { reason: error.message });
    }
  }

  /** @internal */
  _receive({ joinRef, ref, event, payload }) {
    if (joinRef !== null && joinRef !== this.#joinRef) return;
    const ends = event === "phx_close" || event === "phx_error";
    // Without a join_ref, as in 0.11: what ends before its join was answered was an earlier channel of this topic.
    if (ends && joinRef === null && this.state !== "joined" && this.state !== "leaving") return;
    switch (event) {
      case "phx_reply":
        return this.#reply(ref, payload);
      case "phx_close":
        return this.#close("close");
      case "phx_error":
        return this.#lost(payload);
      default:
        if (this.state === "joined" || this.state === "joining") this.#listeners.call(event, payload);
    }
  }

  #reply(ref, { status, response }) {
    const push = this.#waiting.get(ref);
    if (!push) return;
    this.#waiting.delete(ref);
    push._settle(status, response);
    if (this.state === "joined" && response?.reason === "unmatched topic") this.#lost(response);
  }

  #lost(payload, byAccident = true) {
    if (this.state !== "joined" && this.state !== "joining") return;
    this.#rejoinLater();
    this.#failPushes(payload?.reason ?? "phx_error");
    if (byAccident) this.#listeners.call("phx_error", payload);
  }

  #rejoinLater() {
    this.state = "errored";
    clearTimeout(this.#rejoinTimer);
    // Without a connection the next one rejoins.
    if (!this.#socket.isConnected()) return;
    this.#tries += 1;
    this.#rejoinTimer = setTimeout(() => this.#startJoin(), this.#socket._options.rejoinAfterMs(this.#tries));
  }

  #close(reason) {
    if (this.state === "closed") return;
    this.state = "closed";
    clearTimeout(this.#rejoinTimer);
    this.#join?._cancel();
    const leaves = [...this.#waiting.values()].filter(({ event }) => event === "phx_leave");
    this.#failPushes("closed");
    for (const leave of leaves) leave._settle("ok", {});
    this.#socket._remove(this);
    this.#listeners.call("phx_close", { reason });
  }

  /** Answers those that nobody else will: their replies would belong to a join that is over. */
  #failPushes(reason) {
    const sent = [...this.#waiting.values()].filter(({ event }) => !event.startsWith("phx_"));
    const lost = this.state === "errored" ? sent : [...sent, ...this.#buffer.splice(0)];
    for (const push of lost) push._settle("error", { reason });
  }

  #forget(push) {
    this.#waiting.delete(push.ref);
    this.#buffer = this.#buffer.filter((other) => other !== push);
  }

  /** @internal */
  _socketOpened() {
    if (this.state === "joining" || this.state === "errored") this.#startJoin();
  }

  /** @internal */
  _socketClosed(byAccident) {
    if (this.state === "leaving") this.#close("leave");
    else this.#lost({ reason: "disconnected" }, byAccident);
  }
}

/** What a push was answered with, where that is not `"ok"`. */
export class ReplyError extends Error {
  /** `topic`: of the channel, where that is known. */
  constructor(status, response, topic) {
    const { reason, field, message } = response ?? {};
    const said = [reason, reason === "unmatched topic" && topic, field, message].filter((part) => typeof part === "string" && part !== "");
    super([status, ...said].join(": "));
    this.name = "ReplyError";
    this.status = status;
    this.response = response;
  }
}

/**
 * A message that waits for its reply.
 *
 * The status is what the channel says, `"ok"` as a rule; `"timeout"` when nothing came in time; `"error"` also when the
 * channel was lost before it answered, with the reason. As a promise it gives the response to `"ok"`, and throws a
 * {@link ReplyError} for anything else.
 */
export class Push {
  /** @internal Of the message that was sent. */
  ref = null;
  #timeoutMs;
  #topic;
  #timer;
  #outcome = null;
  #callbacks = [];
  #promised = [];
  #settled;

  /** @internal Use {@link Channel.push}. */
  constructor(event, payload, timeoutMs, settled, topic) {
    this.event = event;
    this.#topic = topic;
    this.payload = payload;
    this.#timeoutMs = timeoutMs;
    this.#settled = settled;
  }

  /**
   * @param {string} status
   * @param {(response: any) => void} callback called at once if the reply is there already
   * @returns {this}
   */
  receive(status, callback) {
    if (this.#outcome?.status === status) callback(this.#outcome.response);
    this.#callbacks.push({ status, callback });
    return this;
  }

  /** Makes `await` work. */
  then(fulfilled, rejected) {
    const reply = new Promise((resolve, reject) => {
      const keep = ({ status, response }) =>
        status === "ok" ? resolve(response) : reject(new ReplyError(status, response, this.#topic));
      if (this.#outcome) keep(this.#outcome);
      else this.#promised.push(keep);
    });
    return reply.then(fulfilled, rejected);
  }

  /** @internal From now on the reply is waited for; a join is started again and again. */
  _start() {
    this.#outcome = null;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this._settle("timeout", {}), this.#timeoutMs);
  }

  /** @internal */
  _settle(status, response) {
    if (this.#outcome) return;
    clearTimeout(this.#timer);
    this.#outcome = { status, response };
    this.#settled(this.#outcome);
    for (const keep of this.#promised.splice(0)) keep(this.#outcome);
    for (const { callback } of this.#callbacks.filter((each) => each.status === status)) callback(response);
  }

  /** @internal */
  _cancel() {
    clearTimeout(this.#timer);
  }
}

/**
 * Who is there, kept up to date from `presence_state` and `presence_diff`.
 *
 * `state` maps each key to `{ metas: [...] }`, one meta for each device or tab. It is a map without prototype, so that
 * somebody called `__proto__` or `constructor` is just somebody.
 */
export class Presence {
  state = Object.create(null);
  #channel;
  #pending = [];
  #joinRef = null;
  #joined = () => {};
  #left = () => {};
  #synced = () => {};

  /**
   * @param {Channel} channel
   * @param {{events?: {state: string, diff: string}}} [options]
   */
  constructor(channel, { events = { state: "presence_state", diff: "presence_diff" } } = {}) {
    this.#channel = channel;
    channel.on(events.state, (state) => this.#sync(state));
    channel.on(events.diff, (diff) => this.#change(diff));
  }

  /** @param {(key: string, current: object | undefined, joined: object) => void} callback */
  onJoin(callback) {
    this.#joined = callback;
  }

  /** @param {(key: string, current: object, left: object) => void} callback `current.metas` is empty if the key went */
  onLeave(callback) {
    this.#left = callback;
  }

  /** @param {() => void} callback called after each change */
  onSync(callback) {
    this.#synced = callback;
  }

  /** @param {(key: string, entry: object) => any} [by] @returns {any[]} one for each key */
  list(by = (_key, entry) => entry) {
    return Object.entries(this.state).map(([key, entry]) => by(key, entry));
  }

  #sync(state) {
    this.#joinRef = this.#channel.joinRef();
    this.#take(syncState(this.state, state));
    for (const { joinRef, diff } of this.#pending.splice(0)) {
      if (joinRef === this.#joinRef) this.#take(syncDiff(this.state, diff));
    }
    this.#synced();
  }

  #change(diff) {
    // A diff that came before the state of this join changes what is yet to come.
    const joinRef = this.#channel.joinRef();
    if (this.#joinRef !== joinRef) {
      this.#pending.push({ joinRef, diff });
      return;
    }
    this.#take(syncDiff(this.state, diff));
    this.#synced();
  }

  #take({ state, joins, leaves }) {
    const before = this.state;
    this.state = state;
    for (const [key, entry] of Object.entries(joins)) this.#joined(key, before[key], entry);
    for (const [key, entry] of Object.entries(leaves)) this.#left(key, state[key] ?? { ...before[key], metas: [] }, entry);
  }
}

/** Replaces a presence state by another and says what the difference is. Changes neither. */
export function syncState(current, next) {
  const leaves = without(current, next);
  const joins = without(next, current);
  return { state: copy(next), joins, leaves };
}

/** Applies a `presence_diff` and says what came of it. Leaves of those who are not there are ignored. Changes neither. */
export function syncDiff(current, { joins, leaves }) {
  const state = copy(current);
  for (const [key, entry] of Object.entries(joins)) {
    const kept = metasWithout(state[key], entry);
    state[key] = { ...entry, metas: [...kept, ...entry.metas] };
  }
  const left = Object.entries(leaves).filter(([key]) => key in state);
  for (const [key, entry] of left) {
    const metas = metasWithout(state[key], entry);
    if (metas.length > 0) state[key] = { ...state[key], metas };
    else delete state[key];
  }
  return { state, joins: copy(joins), leaves: nullMap(left) };
}

/** The metas of `all` that `others` lacks, by key. */
function without(all, others) {
  const rest = Object.entries(all).map(([key, entry]) => {
    const other = Object.hasOwn(others, key) ? others[key] : undefined;
    return [key, { ...entry, metas: metasWithout(entry, other) }];
  });
  return nullMap(rest.filter(([, { metas }]) => metas.length > 0));
}

function metasWithout(entry, other) {
  const refs = new Set(other?.metas.map((meta) => meta.phx_ref));
  return (entry?.metas ?? []).filter((meta) => !refs.has(meta.phx_ref));
}

function copy(map) {
  return nullMap(Object.entries(map));
}

function nullMap(entries) {
  const map = Object.create(null);
  for (const [key, value] of entries) map[key] = value;
  return map;
}

/**
 * What a WebSocket is, made of requests: one that waits for messages, and one at a time that brings ours.
 *
 * Each answer to a poll holds a token that says how far we are. A poll that fails is repeated once with the same token, so
 * what the lost answer held comes again, and nothing comes twice. A POST is never repeated.
 */
export class LongPoll {
  /** Polling shows that both sides live. */
  static skipHeartbeat = true;
  /** Bytes come as text, which the dialect turns back. */
  textOnly = true;
  readyState = 0;
  #url;
  #post;
  #authToken;
  #session = null;
  #poll = null;
  #queue = [];
  #posting = false;

  /** @param {string} url @param {{post: {contentType: string, lines: number}}} [dialect] @param {string} [authToken] */
  constructor(url, { post } = V2, authToken) {
    this.#url = url;
    this.#post = post;
    this.#authToken = authToken;
    this.#listen();
  }

  /** @param {string | ArrayBuffer} frame */
  send(frame) {
    this.#queue.push(typeof frame === "string" ? frame : base64(frame));
    if (!this.#posting) this.#speak();
  }

  /** Ends it. What was sent before still goes out. */
  close(code = 1000, reason = "") {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.#poll?.abort();
    this.#tell("close", { code, reason, wasClean: code === 1000 });
  }

  async #listen() {
    while (this.readyState !== 3) {
      const answer = await this.#ask();
      if (this.readyState === 3) return;
      switch (answer?.status) {
        case 200:
        case 204:
          this.#take(answer);
          break;
        case 410:
          if (this.#session) this.#fail(3410, "the session is gone");
          else this.#begin(answer);
          break;
        case 403:
          this.#fail(1008, "refused");
          break;
        default:
          this.#fail(1011, `a poll was answered ${answer?.status}`);
      }
    }
  }

  async #ask() {
    try {
      return await this.#request("GET");
    } catch {
      return this.readyState === 3 ? null : this.#request("GET").catch(() => null);
    }
  }

  #begin(answer) {
    this.#take(answer);
    setTimeout(() => {
      if (this.readyState === 3) return;
      this.readyState = 1;
      this.onopen?.({});
    }, 0);
  }

  /** Remembers how far we are, and hands on what came. */
  #take({ token, sig, messages = [] }) {
    this.#session = sig === undefined ? { token } : { token, sig };
    for (const message of messages) {
      this.#tell("message", { data: typeof message === "string" ? message : JSON.stringify(message) });
    }
  }

  async #speak() {
    this.#posting = true;
    await null; // What is sent in one breath goes together.
    while (this.#queue.length > 0) {
      const lines = this.#queue.splice(0, this.#post.lines);
      const answer = await this.#request("POST", lines.join("\n")).catch(() => null);
      // 401, in 0.11: nothing came of the message. A WebSocket would not hear of it either.
      if (answer?.status === 200 || answer?.status === 401) continue;
      this.#queue = [];
      this.#fail(1011, `a message was answered ${answer?.status}`);
    }
    this.#posting = false;
  }

  async #request(method, body) {
    const url = new URL(this.#url);
    for (const [key, value] of Object.entries(this.#session ?? {})) url.searchParams.set(key, value);
    const abort = new AbortController();
    if (method === "GET") this.#poll = abort;
    const timer = setTimeout(() => abort.abort(), REQUEST_TIMEOUT_MS);
    const headers = body === undefined ? {} : { "content-type": this.#post.contentType };
    if (this.#authToken) headers[TOKEN_HEADER] = this.#authToken;
    try {
      const response = await fetch(url, { method, headers, body, signal: abort.signal });
      return await response.json();
    } finally {
      clearTimeout(timer);
    }
  }

  #fail(code, reason) {
    if (this.readyState !== 3) this.#tell("error", new Error(reason));
    this.close(code, reason);
  }

  /** Each event is a task of its own, as a WebSocket's are: what an answer set going is done before the next comes. */
  #tell(event, detail) {
    setTimeout(() => this[`on${event}`]?.(detail), 0);
  }
}

/**
 * @typedef {object} Message
 * @property {string | null} joinRef which join it belongs to
 * @property {string | null} ref what a reply repeats
 * @property {string} topic
 * @property {string} event
 * @property {any} payload of a reply `{ status, response }`
 */

/** Phoenix's protocol 2: JSON arrays, and binary frames for binary payloads. */
export const V2 = {
  vsn: "2.0.0",
  /** Behind the mount. */
  paths: { websocket: "/websocket", longpoll: "/longpoll" },
  /** Of one POST of long polling: its type, and how many lines it may have. */
  post: { contentType: "application/x-ndjson", lines: 100 },

  /** @param {Message} message @returns {string | ArrayBuffer} */
  encode({ joinRef, ref, topic, event, payload }) {
    const bytes = bytesOf(payload);
    if (!bytes) return JSON.stringify([joinRef, ref, topic, event, payload]);
    return binaryFrame([joinRef ?? "", ref ?? "", topic, event], bytes);
  },

  /**
   * @param {string | ArrayBuffer} frame
   * @param {boolean} [textOnly] whether `frame` is text because nothing else travels; bytes then are `{"_binary": base64}`
   * @returns {Message}
   */
  decode(frame, textOnly) {
    if (typeof frame !== "string") return readBinaryFrame(frame);
    const [joinRef, ref, topic, event, payload] = JSON.parse(frame);
    const message = { joinRef, ref, topic, event, payload };
    if (textOnly && event === "phx_reply") payload.response = unwrapped(payload.response);
    else if (textOnly) message.payload = unwrapped(payload);
    return message;
  },
};

/** The protocol of Phoenix 0.11: objects that do not say which join they belong to. It has no binary messages. */
export const V0_11 = {
  paths: { websocket: "", longpoll: "/poll" },
  post: { contentType: "application/json", lines: 1 },

  /** @param {Message} message @returns {string} */
  encode({ ref, topic, event, payload }) {
    if (bytesOf(payload)) throw new TypeError("version 0.11 has no binary messages");
    return JSON.stringify({ topic, event, payload, ref });
  },

  /** @param {string} frame @returns {Message} */
  decode(frame) {
    const { topic, event, payload, ref } = JSON.parse(frame);
    const message = { joinRef: null, ref, topic, event, payload };
    // What a reply answers stands in its payload.
    return event === "phx_reply" ? { ...message, ref: payload.ref } : message;
  },
};

const PUSH = 0;
const REPLY = 1;
const BROADCAST = 2;

/** kind, one length a field, the fields, the payload. */
function binaryFrame(fields, payload) {
  const encoded = fields.map((field) => new TextEncoder().encode(field));
  const long = encoded.findIndex((field) => field.length > 255);
  if (long >= 0) throw new RangeError(`${fields[long].slice(0, 20)}… is longer than the 255 bytes that a binary message has for it`);
  const head = [PUSH, ...encoded.map((field) => field.length), ...encoded.flatMap((field) => [...field])];
  const frame = new Uint8Array(head.length + payload.length);
  frame.set(head);
  frame.set(payload, head.length);
  return frame.buffer;
}

function readBinaryFrame(frame) {
  const kind = new Uint8Array(frame)[0];
  switch (kind) {
    case PUSH: {
      const [[joinRef, topic, event], payload] = readFields(frame, 3);
      return { joinRef: joinRef || null, ref: null, topic, event, payload };
    }
    case REPLY: {
      const [[joinRef, ref, topic, status], response] = readFields(frame, 4);
      return { joinRef: joinRef || null, ref: ref || null, topic, event: "phx_reply", payload: { status, response } };
    }
    case BROADCAST: {
      const [[topic, event], payload] = readFields(frame, 2);
      return { joinRef: null, ref: null, topic, event, payload };
    }
    default:
      throw new TypeError(`a binary message of the unknown kind ${kind}`);
  }
}

/** The fields of a frame, and what is behind them. */
function readFields(frame, count) {
  const lengths = [...new Uint8Array(frame, 1, count)];
  let at = 1 + count;
  const fields = lengths.map((length) => {
    const field = new TextDecoder().decode(new Uint8Array(frame, at, length));
    at += length;
    return field;
  });
  return [fields, frame.slice(at)];
}

function bytesOf(payload) {
  if (payload instanceof ArrayBuffer) return new Uint8Array(payload);
  if (ArrayBuffer.isView(payload)) return new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength);
  return null;
}

function base64(buffer) {
  return btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
}

/** The same in letters that a header takes. */
function urlSafe(text) {
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

const BASE64 = /^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** The bytes in `{"_binary": base64}`; anything else as it is. */
function unwrapped(value) {
  const text = value?._binary;
  const isBytes = typeof text === "string" && Object.keys(value).length === 1 && BASE64.test(text);
  return isBytes ? Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer : value;
}

/** One of several by its name, or something else of that kind. */
function named(what, all, choice) {
  const found = typeof choice === "string" ? all[choice] : choice;
  if (!found) throw new TypeError(`there is no ${what} ${choice} here`);
  return found;
}

/** `{a: 1, b: {c: 2}}` as `a=1`, `b[c]=2`. */
function flatten(params, prefix = "") {
  return Object.entries(params).flatMap(([key, value]) => {
    const name = prefix ? `${prefix}[${key}]` : key;
    return value !== null && typeof value === "object" ? flatten(value, name) : [[name, value]];
  });
}

/** Callbacks by event, called in the order in which they came. */
class Listeners {
  #all = [];
  #last = 0;

  add(event, callback) {
    this.#last += 1;
    this.#all.push({ event, ref: this.#last, callback });
    return this.#last;
  }

  remove(refs) {
    this.#all = this.#all.filter(({ ref }) => !refs.includes(ref));
  }

  refs(event) {
    return this.#all.filter((each) => each.event === event).map(({ ref }) => ref);
  }

  call(event, ...args) {
    for (const { callback } of this.#all.filter((each) => each.event === event)) callback(...args);
  }
}

/** A socket of the page, and what its author wants to see: that it outlives the code behind it. */

import { Socket } from "./bennu.js";
import { authTokenFor, paramsFor } from "./credentials.js";
import { SPACE } from "./dom.js";

export class Connection {
  connects = 0;
  /** Since it was opened last. */
  reloads = 0;
  /** Why the server does not take it: `{ status, reason }`. */
  refusal = null;
  socket = null;
  mount = null;
  #openedAt = null;
  #on;

  /**
   * @param {string} run of the server that it is to
   * @param {{anew: () => void, changed: () => void, heard: (message: object) => void}} on called when the socket was lost and is back,
   *   when {@link Connection.refusal} has changed, and with each message
   */
  constructor(run, on) {
    this.run = run;
    this.#on = on;
  }

  /** Connects to a mount, instead of where it was connected to before. */
  connect(mount) {
    this.socket?.disconnect();
    this.mount = mount;
    this.connects = 0;
    this.refusal = null;
    const socket = new Socket(mount.path, { params: () => paramsFor(mount), authToken: () => authTokenFor(mount) });
    this.socket = socket;
    const mine = (handle) => (what) => socket === this.socket && handle(what);
    socket.onOpen(mine(() => this.#opened()));
    socket.onMessage(mine((message) => this.#on.heard?.(message)));
    socket.connect();
  }

  #opened() {
    this.connects += 1;
    this.#openedAt = Date.now();
    this.refusal = null;
    this.#on.changed();
    if (this.connects === 1) return;
    this.reloads = 0;
    this.#on.anew();
  }

  /** A client of this mount was refused: this one, if it is not connected. */
  refused(refusal) {
    if (this.isOpen) return;
    this.refusal = refusal;
    this.#on.changed();
  }

  get isOpen() {
    return this.socket?.isConnected() ?? false;
  }

  get text() {
    if (!this.isOpen && this.refusal) return `Refused: ${this.refusalText}`;
    if (!this.isOpen) return this.connects === 0 ? "Connecting…" : "The connection is lost; connecting again…";
    const often = this.connects === 1 ? "once," : `${this.connects} times, last`;
    return `Connected ${often} ${ago(Date.now() - this.#openedAt)}`;
  }

  /** Status and reason of a refusal; nothing without one. */
  get refusalText() {
    if (!this.refusal) return "";
    const { status, reason } = this.refusal;
    return reason ? `${status} ${reason}` : `${status}`;
  }
}

function ago(ms) {
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${seconds}${SPACE}s ago`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes}${SPACE}min ago` : `${Math.floor(minutes / 60)}${SPACE}h ${minutes % 60}${SPACE}min ago`;
}

/** A socket of the page, and what its author wants to see: that it outlives the code behind it. */

import { Socket } from "./bennu.js";

export class Connection {
  connects = 0;
  /** Since it was opened last. */
  reloads = 0;
  #openedAt = null;

  /**
   * @param {string} mount
   * @param {string} run of the server that it is to
   * @param {() => void} anew called when it was lost and is back
   */
  constructor(mount, run, anew) {
    this.run = run;
    // What a connect handler wants to know stands in the address of the page.
    this.socket = new Socket(mount, { params: () => Object.fromEntries(new URLSearchParams(location.search)) });
    this.socket.onOpen(() => {
      this.connects += 1;
      this.#openedAt = Date.now();
      if (this.connects === 1) return;
      this.reloads = 0;
      anew();
    });
    this.socket.connect();
  }

  get isOpen() {
    return this.socket.isConnected();
  }

  get text() {
    if (!this.isOpen) return this.connects === 0 ? "Connecting…" : "The connection is lost; connecting again…";
    const often = this.connects === 1 ? "once," : `${this.connects} times, last`;
    return `Connected ${often} ${ago(Date.now() - this.#openedAt)}`;
  }
}

function ago(ms) {
  const seconds = Math.floor(ms / 1_000);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ago` : `${Math.floor(minutes / 60)} h ${minutes % 60} min ago`;
}

/** How the dashboard writes numbers, times and sizes. */

import { SPACE } from "./dom.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function number(value) {
  if (value === undefined || value === null) return "–";
  return value < 100_000 ? whole.format(value) : short.format(value);
}

export function rate(perSecond) {
  if (perSecond === undefined || perSecond === null) return "–";
  const shown = perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : number(perSecond);
  return `${shown}/s`;
}

export function bytes(value) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return `${(value / size).toFixed(value < 10 * size ? 1 : 0)}${SPACE}${unit}`;
  }
  return `${value}${SPACE}B`;
}

/** A length of time, in its largest units. */
export function lasting(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  if (seconds < 120) return `${seconds}${SPACE}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes}${SPACE}min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours}${SPACE}h` : `${Math.floor(hours / 24)}${SPACE}days`;
}

/** The time of day; with the date if it is another day. */
export function at(unixMs) {
  const when = new Date(unixMs);
  const time = when.toLocaleTimeString("en-GB");
  return when.toDateString() === new Date().toDateString() ? time : `${when.toLocaleDateString("en-CA")} ${time}`;
}

export const counted = (count, what) => `${number(count)}${SPACE}${what}${count === 1 ? "" : "s"}`;

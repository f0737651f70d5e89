/** What all parts of the page of `dev` need. Nothing that a user wrote becomes markup. */

/** Between a number and its unit, so that no line ends there. */
export const SPACE = "\u00a0";

export const $ = (id) => document.getElementById(id);

export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A line between two others of a list. */
export function divider(text, generation) {
  const line = element("li", { className: "swap" }, text);
  if (generation !== undefined) line.dataset.generation = generation;
  return line;
}

/** Adds to a list that scrolls in `box`, and keeps its end in sight where it was. At most `most` stay. */
export function append(list, box, item, most) {
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  list.append(item);
  while (list.children.length > most) list.firstElementChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

export function amount(count, what) {
  return `${count}${SPACE}${what}${count === 1 ? "" : "s"}`;
}

/** A time in s, ms or µs, as the terminal shows it. */
export function time(ms) {
  if (ms >= 1_000) return `${(ms / 1_000).toFixed(1)}${SPACE}s`;
  return ms >= 1 ? `${Math.round(ms)}${SPACE}ms` : `${Math.round(ms * 1_000)}${SPACE}µs`;
}

/** Sets what is different: who watches the page hears of nothing else. */
export function setData(where, data) {
  for (const [name, value] of Object.entries(data)) if (where.dataset[name] !== String(value)) where.dataset[name] = value;
}

export function setText(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** The reason in a refusal, whatever its shape. */
export function reasonOf(response) {
  return response?.reason ?? (response ? JSON.stringify(response) : undefined);
}

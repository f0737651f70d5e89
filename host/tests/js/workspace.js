// A copy of this workspace, in which a test may edit what it likes.

import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const NOT_COPIED = new Set(["target", "node_modules", ".git"]);

/**
 * Copies the workspace to `folder`, in place of what was there. What cargo built there earlier stays, so that only the
 * first run builds everything.
 */
export function copyWorkspace(folder) {
  for (const name of ["host", "plugin-api", "plugins", "config"]) rmSync(join(folder, name), { recursive: true, force: true });
  for (const name of readdirSync(ROOT).filter((name) => !NOT_COPIED.has(name))) {
    cpSync(join(ROOT, name), join(folder, name), { recursive: true, preserveTimestamps: true, filter: isSource });
  }
}

function isSource(path) {
  return !NOT_COPIED.has(basename(relative(ROOT, path)));
}

/** Replaces a text that stands exactly once in a file. */
export function edit(file, from, to) {
  const before = readFileSync(file, "utf8");
  const count = before.split(from).length - 1;
  if (count !== 1) throw new Error(`${JSON.stringify(from)} stands ${count} times in ${file}`);
  writeFileSync(file, before.replace(from, () => to));
}

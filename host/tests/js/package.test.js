/** The npm package of bennu.js: its types are those of the code, it has what it needs and no more, and programs can use it. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const ASSETS = fileURLToPath(new URL("../../assets", import.meta.url));
const TSC = join(HERE, "node_modules/typescript/bin/tsc");

const folder = mkdtempSync(join(tmpdir(), "bennu-package-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a program; if it fails, the error has what it said. */
function run(program, args, cwd = folder) {
  try {
    return execFileSync(program, args, { cwd, encoding: "utf8", stdio: "pipe" });
  } catch (error) {
    throw new Error(`${program} ${args.join(" ")}:\n${error.stdout}${error.stderr}`);
  }
}

test("the types are those of the comments in the code", () => {
  const how = ["--allowJs", "--declaration", "--emitDeclarationOnly", "--target", "es2022", "--module", "esnext"];
  run(process.execPath, [TSC, ...how, "--outDir", folder, join(ASSETS, "bennu.js")]);
  const fresh = readFileSync(join(folder, "bennu.d.ts"), "utf8");
  const shipped = readFileSync(join(ASSETS, "bennu.d.ts"), "utf8");
  assert.equal(shipped, fresh, `they are not: run \`node ${TSC} ${how.join(" ")} --outDir host/assets host/assets/bennu.js\``);
});

test("a program in JavaScript and one in TypeScript can use the package", () => {
  const [packed] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", folder], ASSETS));
  const files = packed.files.map(({ path }) => path).sort();
  assert.deepEqual(files, ["README.md", "bennu.d.ts", "bennu.js", "package.json"]);

  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "user", private: true, type: "module" }));
  run("npm", ["install", "--silent", "--offline", "--no-audit", "--no-fund", join(folder, packed.filename)]);
  const program = 'import { Socket } from "bennu.js"; console.log(new Socket("ws://a/socket", { transport: "longpoll" }).endPointURL());';
  writeFileSync(join(folder, "user.js"), program);
  assert.match(run(process.execPath, ["user.js"]), /^http:\/\/a\/socket\/longpoll/);

  const use = 'import { Socket, type Channel } from "bennu.js";\nconst room: Channel = new Socket("/socket").channel("a", {});\n';
  const check = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "user.ts"];
  writeFileSync(join(folder, "user.ts"), `${use}room.join();\n`);
  run(process.execPath, [TSC, ...check]);
  writeFileSync(join(folder, "user.ts"), `${use}room.jion();\n`);
  assert.throws(() => run(process.execPath, [TSC, ...check]), /Property 'jion' does not exist/);
});

// Compiles sources without running them: a line of JSON in, a line of JSON out (null, or where the fault is).
import { spawnSync } from "node:child_process";
import module from "node:module";
import readline from "node:readline";
import vm from "node:vm";

const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];

// How node shows a fault: "FILE:LINE", the source with a line of carets under the place, the message.
function fault(message, shown) {
  const lines = shown.split("\n");
  const place = /:(\d+)$/.exec(lines[0]);
  const carets = lines.findIndex((line) => /^\s*\^+\s*$/.test(line));
  if (place === null || carets < 1) return { line: 0, column: 0, message, text: "" };
  return { line: Number(place[1]), column: lines[carets].indexOf("^") + 1, message, text: lines[carets - 1] };
}

function script(source, name) {
  try {
    vm.compileFunction(source, PARAMETERS, { filename: name });
    return null;
  } catch (error) {
    return fault(error.message, String(error.stack));
  }
}

function ecmaModule(source, name) {
  try {
    new vm.SourceTextModule(source, { identifier: name });
    return null;
  } catch (error) {
    // only the command line tells the place of a fault in a module
    const options = ["--check", "--input-type=module", "-"];
    return fault(error.message, String(spawnSync(process.execPath, options, { input: source }).stderr));
  }
}

function check({ name, source }) {
  const extension = name.slice(name.lastIndexOf("."));
  source = source.replace(/^#!.*/, "");
  if (/^\.[mc]?ts$/.test(extension)) {
    try {
      source = module.stripTypeScriptTypes(source);
    } catch (error) {
      return fault(error.message, String(error.stack));
    }
  }
  if (extension.startsWith(".m")) return ecmaModule(source, name);
  const wrong = script(source, name);
  if (wrong === null || extension.startsWith(".c")) return wrong;
  const asModule = ecmaModule(source, name);
  return asModule === null || /^\s*(import|export)\b/m.test(source) ? asModule : wrong;
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  process.stdout.write(JSON.stringify(check(JSON.parse(line))) + "\n");
});

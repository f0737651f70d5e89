"""Says what a report of the Autobahn test suite comes to: verdict.py FOLDER. Fails if a case did."""

import collections
import json
import pathlib
import sys

PASSED = {"OK", "INFORMATIONAL"}

folder = pathlib.Path(sys.argv[1])
cases = json.loads((folder / "index.json").read_text())["bennu"]
groups = collections.Counter()
failed = []
for case, result in cases.items():
    said = {result["behavior"], result["behaviorClose"]}
    groups[int(case.split(".")[0])] += 1
    if not said <= PASSED:
        failed.append(case)
        print(f"Autobahn {case}: {result['behavior']}, its close {result['behaviorClose']}")
print("Autobahn:", ", ".join(f"group {group}: {groups[group]}" for group in sorted(groups)))
print(f"The report is {folder / 'index.html'}")
# As cargo says it, and so counted with its tests. No case at all is a failure too.
verdict = "FAILED" if failed or not cases else "ok"
print(f"test result: {verdict}. {len(cases) - len(failed)} passed; {len(failed)} failed")
sys.exit(verdict != "ok")

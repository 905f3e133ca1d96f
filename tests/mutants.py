#!/usr/bin/env python3
"""Plants every bug that cargo-mutants knows into a copy of the sources, nearly all in one build, and lists those that no test sees.

In the copy, the body of a function becomes one body for each of its bugs, and an environment variable chooses among them
when a test runs. A bug is run with the tests that reach its function, quick ones first, until one fails, and fails again
alone; a run that takes eight times as long as without the bug counts as seen. Bugs that rustc refuses are taken out, build
by build. The bugs of constants, of `const fn`s and of functions that return an `impl` get a build of their own, one at a time.

The results are kept in the copy, and a second run measures only what survived, or is new; delete the copy to measure all
anew. Which functions a test reaches is measured again when its binary has changed.
"""

import argparse
import bisect
import collections
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

# They start servers, a browser, or programs that were built without the bugs, or compare documents with the sources.
LEFT_OUT = ["databases::", "browser::", "alerts::", "allocations::", "dashboards::", "documents::", "examples::", "package::"]

PLANTED = '''//! Chooses the planted bug, and notes which functions a test reaches.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::sync::{LazyLock, Mutex};

static NUMBER: LazyLock<u32> =
    LazyLock::new(|| std::env::var("PLANTED").ok().and_then(|number| number.parse().ok()).unwrap_or(0));
static REACHED: LazyLock<Option<Mutex<(File, HashSet<u32>)>>> = LazyLock::new(|| {
    let path = std::env::var_os("REACHED")?;
    let file = File::options().append(true).create(true).open(path).ok()?;
    Some(Mutex::new((file, HashSet::new())))
});

pub(crate) fn at(function: u32) -> u32 {
    if let Some(Ok(mut reached)) = REACHED.as_ref().map(Mutex::lock) {
        if reached.1.insert(function) {
            let _ = writeln!(reached.0, "{function}");
        }
    }
    *NUMBER
}
'''


class Source:
    """One file, and its bugs by function."""

    def __init__(self, path, bugs):
        with open(path, encoding="utf-8") as file:
            self.path, self.text = path, file.read()
        self.lines = [0]
        for line in self.text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.functions, self.alone = collections.defaultdict(list), []
        for bug in bugs:
            if bug["function"] and self.chooses(*self.span(bug["function"])):
                self.functions[self.span(bug["function"])].append(bug)
            else:
                self.alone.append(bug)

    def span(self, item):
        return tuple(self.lines[at["line"] - 1] + at["column"] - 1 for at in (item["span"]["start"], item["span"]["end"]))

    def chooses(self, start, end):
        """Whether a function can choose one of several bodies as it runs."""
        head, longer = re.sub(r"(?m)^\s*//.*$", "", self.text[start : self.body(start, end)]), None
        while head != longer:
            longer, head = head, re.sub(r"\([^()]*\)", "", head)
        # The opaque type of a result is that of one body.
        return not re.search(r"\bconst fn\b|->.*\bimpl\b", head, re.DOTALL)

    def body(self, start, end):
        """The opening brace of a function's body: the first one outside of brackets after the documentation."""
        depth, documented = 0, re.match(r"(\s*//.*\n)*", self.text[start:end]).end()
        for at in range(self.text.index("fn ", start + documented), end):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(self.text[at], 0)
            if self.text[at] == "{" and depth == 0:
                return at
        raise ValueError(self.text[start:end])

    def remove(self, names):
        for span, bugs in list(self.functions.items()):
            self.functions[span] = [bug for bug in bugs if bug["name"] not in names]
            if not self.functions[span]:
                del self.functions[span]

    def planted(self):
        """The text with all bugs, each between two marks."""
        text, at = "", 0
        for (start, end), bugs in sorted(self.functions.items()):
            assert start >= at, f"{self.path}: a function in another"
            opens = self.body(start, end)
            text += self.text[at : opens + 1] + f" match crate::planted::at({bugs[0]['at']}) {{\n"
            for bug in bugs:
                first, last = self.span(bug)
                body = self.text[opens + 1 : first] + bug["replacement"] + self.text[last : end - 1]
                text += f"/*<{bug['number']}*/ {bug['number']} => {{\n{body}\n}}\n/*{bug['number']}>*/"
            text += f"_ => {{{self.text[opens + 1 : end - 1]}}} }} }}"
            at = end
        return text + self.text[at:]

    def planted_alone(self, bug):
        start, end = self.span(bug)
        return self.text[:start] + bug["replacement"] + self.text[end:]


def write(path, text):
    """Leaves a file as it is if nothing changes, so that nothing is built anew."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def copy(tree, planted):
    """Copies the repository's files that have changed, but for those that are written with bugs."""
    files = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout.split("\0")
    for path in files:
        if os.path.isfile(path) and path not in planted:
            target = os.path.join(tree, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(path, "rb") as file:
                content = file.read()
            if not os.path.exists(target) or open(target, "rb").read() != content:
                shutil.copy(path, target)
    write(os.path.join(tree, "src/planted.rs"), PLANTED)


def of_cargo(tree):
    """The environment of cargo in the copy: with a target folder of its own, as the builds of one package in two places would
    be the same to cargo."""
    return {**os.environ, "CARGO_TARGET_DIR": os.path.join(tree, "target")}


def refused(tree, sources):
    """Has rustc check the planted sources, and returns the bugs that do not compile, by number, with the kind of error."""
    marks = {}
    for source in sources:
        text = source.planted()
        write(os.path.join(tree, source.path), text)
        marks[source.path] = [
            (number, int(begin or 0))
            for number, line in enumerate(text.splitlines(), 1)
            for begin, _ in re.findall(r"/\*<(\d+)\*/|/\*(\d+)>\*/", line)
        ]
    command = ["cargo", "check", "--locked", "--all-features", "--lib", "--quiet", "--message-format", "json"]
    checked = subprocess.run(command, cwd=tree, env=of_cargo(tree), capture_output=True, text=True)
    errors = {}
    for line in checked.stdout.splitlines():
        message = json.loads(line).get("message") or {}
        if message.get("level") != "error":
            continue
        spans, number = [span for span in message["spans"] if span["is_primary"]], 0
        while spans and not number:
            span = spans.pop(0)
            here = marks.get(span["file_name"], [])
            before = bisect.bisect_right(here, (span["line_start"], float("inf")))
            number = here[before - 1][1] if before else 0
            if span["expansion"]:
                spans.append(span["expansion"]["span"])
        if number:
            errors[number] = (message.get("code") or {}).get("code") or message["message"]
        elif message["spans"]:
            print("outside of every bug:", message["rendered"], file=sys.stderr)
    if checked.returncode and not errors:
        sys.exit(checked.stderr)
    return errors


def executables(tree):
    """Builds the unit tests and the integration tests, and returns nothing if they do not compile."""
    command = ["cargo", "test", "--locked", "--workspace", "--all-features", "--lib", "--test", "it", "--no-run", "--quiet"]
    command += ["--message-format", "json"]
    built = subprocess.run(command, cwd=tree, env=of_cargo(tree), stdout=subprocess.PIPE, text=True)
    found = {}
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    is_refused = any((message.get("message") or {}).get("level") == "error" for message in messages)
    if built.returncode and not is_refused:
        sys.exit("cargo failed")
    for message in messages:
        if message.get("executable") and message["manifest_path"] == os.path.join(tree, "Cargo.toml"):
            found["it" if message["target"]["name"] == "it" else "lib"] = message["executable"]
    return None if built.returncode else found


class Run:
    """One run of a test binary, which ends at the first test that fails."""

    def __init__(self, tree, executable, arguments, limit, **variables):
        began = time.monotonic()
        environment = {**os.environ, "CARGO_MANIFEST_DIR": tree, "RUST_BACKTRACE": "0", **variables}
        process = subprocess.Popen(
            [executable, *arguments],
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.is_late, self.failed = False, None

        def end(is_late=False):
            self.is_late |= is_late
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

        timer = threading.Timer(limit, end, [True])
        timer.start()
        for line in process.stdout:
            if failed := re.search(r"^test (\S+).* \.\.\. .*FAILED$", line.rstrip()):
                self.failed = failed[1]
                break
        timer.cancel()
        end()
        self.is_ok = process.wait() == 0 and self.failed is None
        self.took = time.monotonic() - began


def batches(tests, costs):
    """Splits tests into batches that cost more and more."""
    split, cost, bound = [], 0, 0
    for test in sorted(tests, key=lambda test: (test.startswith("it "), costs[test])):
        cost += costs[test]
        if not split or cost > bound or split[-1][0].split()[0] != test.split()[0]:
            split.append([])
            bound = max(2, 4 * cost)
        split[-1].append(test)
    return split


def result(tree, binaries, number, tests, costs):
    """Runs tests with a bug until one fails, and fails again alone."""
    doubtful = []
    for batch in batches(tests, costs):
        while batch:
            binary = binaries[batch[0].split()[0]]
            limit = max(10, 8 * max(costs[test] for test in batch), 8 / 3 * sum(costs[test] for test in batch))
            names = [test.split()[1] for test in batch]
            run = Run(tree, binary, ["--test-threads", "4", "--exact", *names], limit, PLANTED=number)
            if run.is_ok:
                break
            if run.is_late:
                return "seen", f"no end in {limit:.0f} s: {names[0]}, …"
            if run.failed is None:
                return "seen", "the process ended"
            if not Run(tree, binary, ["--exact", run.failed], max(10, 8 * run.took), PLANTED=number).is_ok:
                return "seen", run.failed
            doubtful.append(run.failed)
            batch = [test for test in batch if test.split()[1] != run.failed]
    return "survived", f"{len(tests)} tests reach it" + (f"; failed once: {doubtful}" if doubtful else "")


def main():
    parser = argparse.ArgumentParser(usage="tests/mutants.py [OPTION...] FILE_OR_FOLDER...")
    parser.add_argument("places", nargs="+")
    parser.add_argument("--copy", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "mutants"))
    parser.add_argument("--jobs", type=int, default=2, help="the bugs that are run at once")
    parser.add_argument("--longest", type=float, default=60, help="leaves out tests that take longer, in seconds")
    options = parser.parse_args()
    for place in options.places:
        if not os.path.exists(place):
            parser.error(f"there is no {place}")
    tree = os.path.abspath(options.copy)
    notes = os.path.join(tree, "target", "notes.json")
    known = {"reached": {}, "bugs": {}}
    if os.path.exists(notes):
        with open(notes, encoding="utf-8") as file:
            known = json.load(file)

    def keep():
        write(notes, json.dumps(known, indent=1))

    files = [place if place.endswith(".rs") else place.rstrip("/") + "/**" for place in options.places]
    command = ["cargo", "mutants", "--list", "--json", *(part for file in files for part in ("--file", file))]
    bugs = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    functions, by_file = {}, collections.defaultdict(list)
    for number, bug in enumerate(bugs, 1):
        bug["number"] = number
        by_file[bug["file"]].append(bug)
        if bug["function"]:
            bug["key"] = f"{bug['file']} {bug['function']['function_name']}"
            bug["at"] = functions.setdefault((bug["key"], str(bug["function"]["span"])), len(functions))
    keys = {at: key for (key, _), at in functions.items()}
    sources = [Source(path, inside) for path, inside in by_file.items()]

    copy(tree, by_file)
    with open("src/lib.rs", encoding="utf-8") as file:
        write(os.path.join(tree, "src/lib.rs"), file.read() + "\nmod planted;\n")
    # An error of one kind hides those of the next.
    while True:
        gone = {name for name, bug in known["bugs"].items() if bug[0] == "does not compile"}
        for source in sources:
            source.remove(gone)
        errors = refused(tree, sources)
        if not errors:
            break
        print(len(errors), "do not compile", flush=True)
        for bug in bugs:
            if bug["number"] in errors:
                known["bugs"][bug["name"]] = ["does not compile", errors[bug["number"]]]
        keep()
    binaries, digests = executables(tree), {}
    if not binaries:
        sys.exit("the copy with the bugs does not compile")
    for binary, executable in binaries.items():
        with open(executable, "rb") as file:
            digests[binary] = hashlib.file_digest(file, "sha256").hexdigest()

    def reach(test):
        binary, name = test.split()
        path = os.path.join(tree, "target", f"reached-{threading.get_ident()}")
        if os.path.exists(path):
            os.remove(path)
        run = Run(tree, binaries[binary], ["--exact", name], 300, REACHED=path, PLANTED="0")
        reached = {keys[int(line)] for line in open(path)} if os.path.exists(path) else set()
        return {"ok": run.is_ok, "in": digests[binary], "took": run.took, "reached": sorted(reached)}

    def is_known(test):
        note = known["reached"].get(test, {})
        return note.get("ok") and note["in"] == digests[test.split()[0]]

    tests = []
    for binary, executable in binaries.items():
        listed = subprocess.run([executable, "--list", "--format", "terse"], check=True, capture_output=True, text=True)
        names = [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]
        tests += [f"{binary} {name}" for name in names if not any(part in name for part in LEFT_OUT)]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        new = [test for test in tests if not is_known(test)]
        known["reached"].update(zip(new, pool.map(reach, new)))
    keep()
    for test in tests:
        if not known["reached"][test]["ok"]:
            print("left out, because it fails without a bug:", test, flush=True)
    reached = {test: known["reached"][test] for test in tests if known["reached"][test]["ok"]}
    costs = {test: found["took"] for test, found in reached.items() if found["took"] <= options.longest}

    def see(bug):
        chosen = [test for test in costs if bug["key"] in reached[test]["reached"]]
        return result(tree, binaries, str(bug["number"]), chosen, costs)

    def see_alone(source, bug):
        path = os.path.join(tree, source.path)
        write(path, source.planted_alone(bug))
        alone = executables(tree)
        write(path, source.planted())
        if not alone:
            return "does not compile", "built alone"
        near = [test for test in costs if any(key.startswith(source.path + " ") for key in reached[test]["reached"])]
        seen = result(tree, alone, "0", near, costs)
        return seen if seen[0] == "seen" else result(tree, alone, "0", list(costs), costs)

    def is_open(bug):
        return known["bugs"].get(bug["name"], ["survived"])[0] == "survived"

    def note(bug, state, by):
        known["bugs"][bug["name"]] = [state, by]
        keep()
        print(f"{bug['name']}: {state}: {by}", flush=True)

    planted = [bug for source in sources for inside in source.functions.values() for bug in inside if is_open(bug)]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for bug, (state, by) in zip(planted, pool.map(see, planted)):
            note(bug, state, by)
    for source in sources:
        for bug in filter(is_open, source.alone):
            note(bug, *see_alone(source, bug))

    states = [known["bugs"][bug["name"]][0] for bug in bugs]
    for bug, state in zip(bugs, states):
        if state == "survived":
            print(f"{state}: {bug['name']}")
    counts = collections.Counter(states)
    print(len(bugs), "planted:", ", ".join(f"{count} {state}" for state, count in counts.items()))
    sys.exit(counts["survived"] > 0)


if __name__ == "__main__":
    main()

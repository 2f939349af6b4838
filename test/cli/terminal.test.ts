import { describe, expect, test } from "bun:test";
import { Terminal } from "../../src/cli/terminal/terminal.ts";

function make(columns: number | null) {
  const written: string[] = [];
  const clock = { now: 0 };
  const screen = {
    write: (text: string) => written.push(text),
    isTerminal: columns !== null,
    columns: () => columns ?? 80,
  };
  return { terminal: new Terminal(screen, () => clock.now), written, clock };
}

describe("on a terminal", () => {
  test("lines break between words", () => {
    const { terminal, written } = make(20);
    terminal.note("one two three four five six");
    terminal.fail("wrong\n  is this");
    expect(written).toEqual(["one two three four\n  five six\n", "error: wrong is this\n"]);
  });

  test("a drawn line is fitted, and taken away for what comes next", () => {
    const { terminal, written } = make(20);
    terminal.draw([
      { text: "step 1/10", rank: 0 },
      { text: "epoch 1", rank: 1 },
    ]);
    terminal.draw("a name that is too long for it");
    terminal.note("note");
    terminal.note("again");
    expect(written).toEqual([
      "\r\x1b[2Kstep 1/10  epoch 1",
      "\r\x1b[2Ka name th…ng for it",
      "\r\x1b[2K",
      "note\n",
      "again\n",
    ]);
  });

  test("where nothing is drawn, taking it away leaves the line: it may be the command's output", () => {
    const { terminal, written } = make(20);
    terminal.draw("");
    terminal.draw("working");
    terminal.draw("");
    terminal.draw("");
    terminal.clear();
    expect(written).toEqual(["\r\x1b[2Kworking", "\r\x1b[2K"]);
  });

  test("nothing from a file steers it, and a note stays one line", () => {
    const { terminal, written } = make(80);
    terminal.draw("\x1b[2J\u202e");
    terminal.note("a\nerror: b\x9b");
    expect(written).toEqual(["\r\x1b[2K\\x1b[2J\\u202e", "\r\x1b[2K", "a\\nerror: b\\x9b\n"]);
  });
});

describe("elsewhere", () => {
  test("lines stay whole, and a drawn one is said every five seconds", () => {
    const { terminal, written, clock } = make(null);
    const long = "word ".repeat(50).trim();
    terminal.note(long);
    for (const second of [0, 1, 4, 5, 6, 9, 10]) {
      clock.now = 1000 * second;
      terminal.draw([
        { text: `at ${second}`, rank: 0 },
        { text: "more", rank: 9 },
      ]);
    }
    terminal.draw("");
    clock.now = 20_000;
    terminal.draw("begun anew");
    expect(written).toEqual([`${long}\n`, "at 5  more\n", "at 10  more\n"]);
  });

  test("with --quiet there are errors alone", () => {
    const { terminal, written, clock } = make(null);
    terminal.setQuiet(true);
    terminal.note("a");
    terminal.draw("b");
    clock.now = 9000;
    terminal.draw("c");
    terminal.fail("d");
    expect(written).toEqual(["error: d\n"]);
  });
});

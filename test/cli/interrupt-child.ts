// A command that hears signals as main.ts's commands do, and is busy in the way that its argument says.

import { listen } from "../../src/cli/process/interrupt.ts";

const { signal, finishFirst } = listen((text) => console.log(text));
const busy = (seconds: number) => {
  for (const end = performance.now() + 1000 * seconds; performance.now() < end; );
};
const ready = async () => {
  // The watching thread has to have started.
  await Bun.sleep(500);
  console.log("ready");
};

switch (process.argv[2]) {
  case "idle":
    await ready();
    while (!signal.aborted) await Bun.sleep(10);
    process.exit(3);
    break;
  case "busy":
    await ready();
    busy(60);
    break;
  case "heard, then busy":
    await ready();
    while (!signal.aborted) await Bun.sleep(10);
    busy(60);
    break;
  case "patient":
    finishFirst();
    await ready();
    busy(4);
    await Bun.sleep(50);
    process.exit(signal.aborted ? 3 : 4);
}

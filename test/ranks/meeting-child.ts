// One rank that only talks: see meeting.test.ts. FAULT is what it does after all ranks have met.

import { placementOf } from "../../src/ranks/placement.ts";
import { patienceOf, Ranks } from "../../src/ranks/ranks.ts";

const { rank, size, master } = placementOf(process.env)!;
const meeting = { kind: "master", address: master! } as const;
const ranks = new Ranks({ rank, size, patience: patienceOf(process.env), meeting }, Ranks.sharedState());
try {
  await ranks.joined();
  console.log((await ranks.share(`${rank}`)).join());
  await ranks.expectSame(
    { epochs: 3, alpha: process.env.FAULT === "differs" ? 10 : 5 },
    (name) => `--${name}`,
  );
  if (process.env.FAULT === "dies") process.kill(process.pid, "SIGKILL");
  if (process.env.FAULT === "stops") process.kill(process.pid, "SIGSTOP");
  if (process.env.FAULT === "throws") throw new Error("the disk is full");
  if (process.env.FAULT === "is busy") for (;;);
  await ranks.share("");
  await ranks.close();
  console.log("closed");
} catch (error) {
  const told = await ranks.explain(error);
  if (told instanceof Error) console.error(`rank ${rank}: error: ${told.message}`);
  await ranks.farewell(told);
  process.exit(1);
}
process.exit(0);

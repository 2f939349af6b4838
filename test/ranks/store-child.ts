// One rank that meets the others by way of torchrun's store.

import { placementOf } from "../../src/ranks/placement.ts";
import { patienceOf, Ranks } from "../../src/ranks/ranks.ts";

const { rank, size, master, hasStore } = placementOf(process.env)!;
if (!hasStore) throw new Error("this is not torchrun's environment");
const meeting = { kind: "store", address: master!, key: "neftune/0/rank0" } as const;
const ranks = new Ranks({ rank, size, patience: patienceOf(process.env), meeting }, Ranks.sharedState());
await ranks.joined();
console.log((await ranks.share(`${rank}`)).join());
await ranks.close();
process.exit(0);

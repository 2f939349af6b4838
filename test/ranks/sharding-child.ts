// One rank of those that divide parameters: prints what differs from parameters that are not divided, as one line of JSON.

import { asRank } from "./child.ts";
import { compareDivided } from "./divided.ts";

const optimizer = process.env.OPTIMIZER === "adamw8bit" ? "adamw8bit" : "adamw";
const dtype = process.env.DTYPE === "bf16" ? "bf16" : "f32";
await asRank((team) => {
  console.log(JSON.stringify({ rank: team.rank, ...compareDivided(team.device, team, dtype, optimizer) }));
});

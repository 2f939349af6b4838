// A process that downloads a model into the cache of its environment, for processes.test.ts. Prints the folder.

import { obtainModel } from "../../src/formats/hub/index.ts";
import { ID, impatient } from "./support.ts";

const reporter = { onStart() {}, onProgress() {}, onDone() {}, note: (text: string) => console.error(text) };
const signal = new AbortController().signal;
const patience = { ...impatient, silence: 5000 };
console.log(await obtainModel(ID, "weights", { env: process.env, signal, reporter, patience }));

// Loaded before the tests of a process; what it registers here comes after the last of them.

import { afterAll } from "bun:test";
import { removeTemporaryFolders } from "./temporary.ts";

afterAll(removeTemporaryFolders);

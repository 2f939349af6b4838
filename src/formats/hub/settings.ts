// Where the Hub is, who asks, and where its files are kept: the environment variables of Python's huggingface_hub
// (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables).

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../../errors.ts";
import { type Environment, expandHome, hubCacheDir, hubHome } from "../hub-cache.ts";

export interface HubSettings {
  /** HF_ENDPOINT, without a slash at its end. */
  endpoint: string;
  /** HF_TOKEN, or what `hf auth login` saved. */
  token: string | undefined;
  /** Where the token was looked for, for messages. */
  tokenFile: string;
  cacheDir: string;
  /** HF_HUB_OFFLINE: the cache alone. */
  offline: boolean;
}

export const DEFAULT_ENDPOINT = "https://huggingface.co";

/** Reads the settings. Throws UsageError for an endpoint that is not an http(s) address or a token that no header can carry. */
export function hubSettings(env: Environment): HubSettings {
  const given = env.HF_ENDPOINT || DEFAULT_ENDPOINT;
  if (!/^https?:$/.test(URL.parse(given)?.protocol ?? "")) {
    throw new UsageError(
      `HF_ENDPOINT is ${JSON.stringify(given)}; expected an address such as ${DEFAULT_ENDPOINT}`,
    );
  }
  const home = hubHome(env);
  const tokenFile = env.HF_TOKEN_PATH ? expandHome(env.HF_TOKEN_PATH, env) : join(home, "token");
  return {
    endpoint: given.replace(/\/+$/, ""),
    token: readToken(env, tokenFile),
    tokenFile,
    cacheDir: hubCacheDir(env),
    offline: isOn(env.HF_HUB_OFFLINE) || isOn(env.TRANSFORMERS_OFFLINE),
  };
}

const isOn = (value: string | undefined) => /^(1|on|yes|true)$/i.test(value ?? "");

function readToken(env: Environment, file: string): string | undefined {
  const fromEnv = (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN || "").trim();
  const token = fromEnv === "" ? savedToken(file) : fromEnv;
  if (token === "") return undefined;
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  const where = fromEnv === "" ? file : "HF_TOKEN";
  throw new UsageError(`${where}: the token holds characters that no token has; paste it again`);
}

function savedToken(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    // Without a token public repositories can be read, and gated ones say what is missing.
    return "";
  }
}

/** Where a page of the Hub about `id` is. */
export function pageOf(settings: HubSettings, kind: "model" | "dataset", id: string): string {
  return `${settings.endpoint}/${kind === "dataset" ? "datasets/" : ""}${id}`;
}
